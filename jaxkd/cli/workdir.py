"""Opens workdirs and weights for the commands after training, and checks that their output can be written."""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jaxkd import config as configs
from jaxkd.data.base import Source, digest
from jaxkd.errors import ConfigError, StorageError
from jaxkd.loading import build, hub, prepare
from jaxkd.paths import path_of
from jaxkd.train import checkpoint, loop
from jaxkd.weights import parts


@dataclass(frozen=True)
class Run:
    """A detector with its run, or weights alone."""

    recipe: configs.Recipe  # of the run; None for weights alone
    student: build.Loaded
    folder: Path  # the workdir; for weights alone, where they are


def open_run(workdir: str, *, advice: str = "give --workdir=DIR") -> Run:
    """The best student of a workdir with its recipe, or weights alone, from any path that `jaxkd.load` takes.

    The folder "student" of a workdir stands for its run. `advice` ends the error message where there is neither.

    Raises ConfigError where there is neither, or the run has no student yet, StorageError where its recipe is broken,
    WeightsError where the weights are.
    """
    path = path_of(workdir)
    if workdir and hub.is_one(path):
        return Run(None, prepare.load_detector(workdir), path)
    if path.name == build.STUDENT and (path.parent / build.RECIPE).is_file():
        path = path.parent
    if workdir and (path / build.RECIPE).is_file():
        if not build.file_of(path / build.STUDENT, build.ABOUT).is_file():
            raise ConfigError(f"The run in {path} has no student yet; it is written at the first evaluation.")
        return Run(_recipe(path / build.RECIPE), build.load(path / build.STUDENT), path)
    if workdir and (parts.split(path)[0].is_file() or build.file_of(path, build.ABOUT).is_file()):
        return Run(None, prepare.load_detector(workdir), path)
    raise ConfigError(
        f"'{workdir}' is not the workdir of a run, which holds {build.RECIPE}, and no weights, beside which is "
        f"{build.ABOUT}; {advice}."
    )


def is_other(run: Run, source: Source) -> bool:
    """Whether a source is known to differ from the run's validation data."""
    last_checkpoint = checkpoint.newest(run.folder / loop.CHECKPOINTS) if run.recipe is not None else None
    own_digest = "" if last_checkpoint is None else last_checkpoint.facts.get("validation data", "")
    return bool(own_digest) and own_digest != digest(source)


def check_folder(folder: Path) -> None:
    """Raises StorageError where files cannot be written into a folder; folders made for the check are removed."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(f"{folder} cannot be written to: {error.strerror}; give another --out.") from error
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def check_file(file: Path) -> None:
    """Raises StorageError where a file cannot be written."""
    if file.is_dir():
        raise StorageError(f"{file} is a folder; give a file as --out.")
    check_folder(file.parent)
    if file.exists() and not os.access(file, os.W_OK):
        raise StorageError(f"{file} cannot be written to; give another --out.")


def _recipe(file: Path) -> configs.Recipe:
    """The recipe of a run; StorageError where the file holds none."""
    try:
        recipe = configs.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"{file} is not the recipe of a run: {error}.") from error
    if not set(recipe.keys()) >= configs.FIELDS:
        raise StorageError(f"{file} is not the recipe of a run: it lacks fields.")
    return recipe
