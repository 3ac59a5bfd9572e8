"""The folder of an export (model, model.json, detect.py), written as a whole; it replaces only an earlier export."""

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
from jaxkd.export.base import DESCRIPTION, SCRIPT, Subject

PART, ASIDE = ".part", "earlier"  # in the folder: files being written; in PART: the earlier files during the swap
CACHE = "__pycache__"  # left behind by an import of detect.py


def module_of(kind: str) -> ModuleType:
    """The module that writes a format."""
    return importlib.import_module(f"jaxkd.export.{kind}")


def earlier_files(out: Path) -> list[str]:
    """Names of the files of an earlier export in a folder, none where there is none.

    Raises ConfigError where the folder holds anything else.
    """
    if not out.exists():
        return []
    if not out.is_dir():
        raise ConfigError(f"{out} is a file; give another --out.")
    names, part = {file.name for file in out.iterdir()}, out / PART
    if PART in names:  # left by a process that died
        inside = {file.name for file in part.iterdir()} if part.is_dir() and not part.is_symlink() else {PART}
        if not inside <= {*(module_of(kind).FILE for kind in FORMATS), DESCRIPTION, SCRIPT, ASIDE}:
            raise ConfigError(f"{part} is in the way; move it, or give another --out.")
    names -= {PART}
    model = _model_of(out / DESCRIPTION)
    if other := sorted(names - {model, DESCRIPTION, SCRIPT, CACHE} if model else names):
        problem = "holds more than an earlier export" if model else "is no earlier export and holds"
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise ConfigError(f"The folder {out} {problem}: {', '.join(other[:3])}{more}; give another --out.")
    return sorted(names)


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A context with an empty folder to write to: its files move to `out` at the end, or are deleted on an error.

    It is inside `out`, so that `out` may be a link to a folder or a mount. Raises ConfigError as `earlier_files` does.
    """
    out = Path(os.path.realpath(out))
    earlier, is_new = earlier_files(out), not out.exists()
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
    subject: Subject,
    kind: str,
    folder: Path,
    *,
    calibration: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    half: bool = False,
) -> dict[str, Any]:
    """Writes an export in a format and returns its description.

    It is in float32, where `calibration` is given TFLite in int8, and with `half` one of `export.HALF` in float16.

    Raises ConfigError where the format does not support the detector, or a package cannot be imported.
    """
    module = module_of(kind)
    options: dict[str, Any] = {"calibration": calibration} if calibration else {}
    options |= {"half": True} if half else {}
    try:
        module.write(subject, folder / module.FILE, **options)
    except (JaxkdError, OSError):
        raise
    except ImportError as error:
        raise base.import_failure(kind, error, extra=module.EXTRA, modules=module.NEEDS) from error
    except Exception as error:  # each converter raises its own kinds, some with pages of text
        raise ConfigError(f"The detector cannot be converted to {kind}: {first_line(error)}.") from error
    description = base.describe(subject, kind=kind, file=module.FILE)
    write_description(folder, description)
    shutil.copyfile(standalone.__file__, folder / SCRIPT)
    return description


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Writes model.json."""
    (folder / DESCRIPTION).write_text(f"{json_values.dumps(description, indent=2)}\n", encoding="utf-8")


def _model_of(file: Path) -> str:
    """The file name of the model that a model.json of an export describes, "" for any other file."""
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        model = module_of(description["format"]).FILE if description["format"] in FORMATS else ""
        return model if description["file"] == model and description["jaxkd"] else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _move_up(part: Path, out: Path, earlier: Sequence[str]) -> None:
    """Replaces the earlier files by the new ones, or leaves all as it was.

    model.json is removed first and written last, so it never lies beside a model that it does not describe.
    """
    aside, new = part / ASIDE, sorted(file.name for file in part.iterdir())
    aside.mkdir()
    moves = [(out / name, aside / name) for name in sorted(earlier, key=lambda name: name != DESCRIPTION)]
    moves += [(part / name, out / name) for name in sorted(new, key=lambda name: name == DESCRIPTION)]
    with contextlib.ExitStack() as rollback:
        for source, target in moves:
            os.replace(source, target)
            rollback.callback(os.replace, target, source)
        rollback.pop_all()
