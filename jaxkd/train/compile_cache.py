"""A folder of one's own in which compiled programs wait for the next run of the same command."""

import os
import stat
from pathlib import Path

from jaxkd.errors import StorageError

SWITCH = "JAXKD_COMPILE_CACHE"  # "off" compiles anew each time
FOLDER = "JAX_COMPILATION_CACHE_DIR"  # read by jax when it is first imported


def use() -> None:
    """Has jax keep what it compiles; to be called before jax is imported, which this module does not do.

    The folder is that of $JAX_COMPILATION_CACHE_DIR, or jaxkd/compiled in $XDG_CACHE_HOME or ~/.cache, made for its
    owner alone. Where it cannot be made there is no cache; a place that is no path of this machine is left to jax.
    Raises StorageError where others could put programs into it, which would then be executed.
    """
    if os.environ.get(SWITCH, "").lower() == "off":
        os.environ.pop(FOLDER, None)
        return
    given = os.environ.get(FOLDER, "")
    if "://" in given:
        return
    try:
        folder = Path(given) if given else _home() / "jaxkd" / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):  # the latter where nobody knows a home
        return
    if fault := _fault(found):
        raise StorageError(
            f"The folder of compiled programs {folder} {fault}, who could put programs there that would be executed; "
            f"take write permission from them, set {FOLDER} to a folder of your own, or set {SWITCH}=off."
        )
    os.environ[FOLDER] = str(folder)


def _home() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if os.path.isabs(named) else Path.home() / ".cache"


def _fault(found: os.stat_result) -> str:
    """Who else may write in a folder, as the end of a sentence; empty where nobody may."""
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        return "belongs to another user"
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return "can be written by other users" if os.name == "posix" and writable else ""
