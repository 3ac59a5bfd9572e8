"""The folder of an export: model, model.json and detect.py, whole, and in the place of nothing but an earlier one."""

import contextlib
import importlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxkd import json_values
from jaxkd.errors import ConfigError, JaxkdError, first_line
from jaxkd.export import FORMATS, base, standalone
from jaxkd.export.base import ABOUT, SCRIPT, Subject

PART, ASIDE = ".part", "earlier"  # in the folder: what is being written; in that: what gives it its place
CACHE = "__pycache__"  # what importing detect.py leaves


def module_of(kind: str) -> ModuleType:
    """The module that writes a format."""
    return importlib.import_module(f"jaxkd.export.{kind}")


def owned(out: Path) -> list[str]:
    """Names of what an earlier export has left in a folder, none where there is none.

    Raises ConfigError where anything else lies there.
    """
    if not out.exists():
        return []
    if not out.is_dir():
        raise ConfigError(f"{out} is a file; give another --out.")
    there, part = {file.name for file in out.iterdir()}, out / PART
    if PART in there:  # of a process that died
        inside = {file.name for file in part.iterdir()} if part.is_dir() and not part.is_symlink() else {PART}
        if not inside <= {*(module_of(kind).FILE for kind in FORMATS), ABOUT, SCRIPT, ASIDE}:
            raise ConfigError(f"{part} is in the way; move it, or give another --out.")
    there -= {PART}
    model = _model_of(out / ABOUT)
    if other := sorted(there - {model, ABOUT, SCRIPT, CACHE} if model else there):
        said = "holds more than an earlier export" if model else "is no earlier export and holds"
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise ConfigError(f"The folder {out} {said}: {', '.join(other[:3])}{more}; give another --out.")
    return sorted(there)


@contextlib.contextmanager
def renewed(out: Path) -> Iterator[Path]:
    """An empty folder to write to, whose files come to lie in `out` if nothing is raised, and else are gone.

    It is inside of `out`, so that `out` may be a link to a folder or a mount. Raises ConfigError as `owned` does.
    """
    out = Path(os.path.realpath(out))
    earlier, is_new = owned(out), not out.exists()
    part = out / PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        _move_up(part, out, earlier)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if is_new and not any(out.iterdir()):
            out.rmdir()


def write(
    subject: Subject, kind: str, folder: Path, *, calibration: Sequence[tuple[np.ndarray, np.ndarray]] = ()
) -> dict[str, Any]:
    """Writes an export in a format, TFLite's with int8 where there is a `calibration`, and gives its description.

    Raises ConfigError where the format cannot hold the detector, or a package cannot be imported.
    """
    module = module_of(kind)
    options = {"calibration": calibration} if calibration else {}
    try:
        module.write(subject, folder / module.FILE, **options)
    except (JaxkdError, OSError):
        raise
    except ImportError as error:
        raise base.lacking(kind, error, extra=module.EXTRA, modules=module.NEEDS) from error
    except Exception as error:  # of as many kinds as there are converters, some with pages of text
        raise ConfigError(f"The detector cannot be converted to {kind}: {first_line(error)}.") from error
    about = base.describe(subject, kind=kind, file=module.FILE)
    note(folder, about)
    shutil.copyfile(standalone.__file__, folder / SCRIPT)
    return about


def note(folder: Path, about: dict[str, Any]) -> None:
    """Writes model.json."""
    (folder / ABOUT).write_text(f"{json_values.dumps(about, indent=2)}\n", encoding="utf-8")


def _model_of(file: Path) -> str:
    """The name of the model that a model.json of ours describes, "" for any other file."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        model = module_of(about["format"]).FILE if about["format"] in FORMATS else ""
        return model if about["file"] == model and about["jaxkd"] else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _move_up(part: Path, out: Path, earlier: Sequence[str]) -> None:
    """Puts new files in the place of the earlier ones, or leaves all as it was.

    model.json goes first and comes last, so it never lies beside a model that it does not describe.
    """
    aside, new = part / ASIDE, sorted(file.name for file in part.iterdir())
    aside.mkdir()
    moves = [(out / name, aside / name) for name in sorted(earlier, key=lambda name: name != ABOUT)]
    moves += [(part / name, out / name) for name in sorted(new, key=lambda name: name == ABOUT)]
    with contextlib.ExitStack() as undone:
        for old, place in moves:
            os.replace(old, place)
            undone.callback(os.replace, place, old)
        undone.pop_all()
