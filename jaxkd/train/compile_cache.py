"""A private folder that caches compiled programs between runs."""

import os
import stat
from pathlib import Path

from jaxkd.errors import StorageError

SWITCH = "JAXKD_COMPILE_CACHE"  # "off" compiles anew each time
FOLDER = "JAX_COMPILATION_CACHE_DIR"  # read by jax when it is first imported


def use() -> None:
    """Turns on jax's cache of compiled programs; to be called before jax is imported, which this module does not do.

    The folder is that of $JAX_COMPILATION_CACHE_DIR, or jaxkd/compiled in $XDG_CACHE_HOME or ~/.cache, made for its
    owner alone. Where it cannot be made there is no cache; a URL such as gs://... is left to jax.
    Raises StorageError where other users could write programs into it, which would then be executed.
    """
    if os.environ.get(SWITCH, "").lower() == "off":
        os.environ.pop(FOLDER, None)
        return
    setting = os.environ.get(FOLDER, "")
    if "://" in setting:
        return
    try:
        folder = Path(setting) if setting else _home() / "jaxkd" / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return
    if fault := _fault(status):
        raise StorageError(
            f"The folder of compiled programs {folder} {fault}, who could put programs there that would be executed; "
            f"take write permission from them, set {FOLDER} to a folder of your own, or set {SWITCH}=off."
        )
    os.environ[FOLDER] = str(folder)


def _home() -> Path:
    variable = os.environ.get("XDG_CACHE_HOME", "")
    return Path(variable) if os.path.isabs(variable) else Path.home() / ".cache"


def _fault(status: os.stat_result) -> str:
    """Why others may write in a folder, as the end of a sentence; empty where nobody else may."""
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        return "belongs to another user"
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return "can be written by other users" if os.name == "posix" and writable else ""
