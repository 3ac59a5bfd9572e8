"""What the commands after training need of a run's folder."""

from dataclasses import dataclass
from pathlib import Path

from jaxkd import config as configs
from jaxkd.errors import ConfigError, StorageError
from jaxkd.train import build, prepare


@dataclass(frozen=True)
class Run:
    """A run that has a student."""

    recipe: configs.Recipe
    student: build.Loaded


def open_run(workdir: str) -> Run:
    """The recipe and the best student of a workdir.

    Raises ConfigError where the folder is no workdir or has no student yet, StorageError where its recipe is broken.
    """
    folder = Path(workdir)
    if not workdir or not (folder / prepare.RECIPE).is_file():
        raise ConfigError(f"'{workdir}' is not the workdir of a run: it holds no {prepare.RECIPE}; give --workdir=DIR.")
    if not (folder / prepare.STUDENT / build.ABOUT).is_file():
        raise ConfigError(f"The run in {folder} has no student yet; it is written at the first evaluation.")
    try:
        recipe = configs.parse((folder / prepare.RECIPE).read_text())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"{folder / prepare.RECIPE} is not the recipe of a run: {error}.") from error
    if not set(recipe.keys()) >= configs.PARTS:
        raise StorageError(f"{folder / prepare.RECIPE} is not the recipe of a run: it lacks parts.")
    return Run(recipe, build.load(folder / prepare.STUDENT))
