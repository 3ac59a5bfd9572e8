"""What a recipe names, loaded and held against the rest of it before a run begins."""

import json
from pathlib import Path
from typing import Any

from jaxkd import config as configs
from jaxkd.data.base import Source
from jaxkd.errors import ConfigError, StorageError, WeightsError
from jaxkd.train import build

RECIPE, STUDENT = "config.json", "student"  # what a workdir holds: the resolved recipe, the best student


def refuse_other(workdir: Path, recipe: configs.Recipe) -> None:
    """Makes the folder, and lets only its own recipe pass.

    Raises ConfigError where it belongs to another recipe, StorageError where it cannot be used.
    """
    file = workdir / RECIPE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            return
        there = json.loads(file.read_text())
    except FileExistsError as error:
        raise StorageError(f"The workdir {workdir} is a file; give a folder.") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"The workdir {workdir} cannot be used: {error}.") from error
    other = differences(there, json.loads(configs.dump(recipe)))
    if other:
        raise ConfigError(
            f"The workdir {workdir} belongs to another recipe: {'; '.join(other[:3])}; "
            "take a new --workdir, or the old recipe to go on."
        )


def claim(workdir: Path, recipe: configs.Recipe) -> None:
    """Makes `workdir` this recipe's; a recipe that fails before its first step leaves the workdir free for another.

    Raises as `refuse_other` does.
    """
    refuse_other(workdir, recipe)
    file = workdir / RECIPE
    try:
        if not file.exists():
            file.write_text(configs.dump(recipe) + "\n")
    except OSError as error:
        raise StorageError(f"The workdir {workdir} cannot be written: {error}.") from error


def differences(old: Any, new: Any, path: str = "config") -> list[str]:
    """Where two resolved recipes differ, one phrase a place."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}")]
    return [] if old == new else [f"{path} was {old!r} and is now {new!r}"]


def load_source(config: configs.Recipe) -> Source:
    """The data source that a recipe's component describes."""
    built = configs.build(config)
    return configs.module_of(built).load(built)


def load_teacher(recipe: configs.Recipe, classes: tuple[str, ...]) -> build.Loaded | None:
    """The recipe's teacher with every leaf matched; None where the recipe distils nothing.

    Raises ConfigError where methods lack a teacher, WeightsError where its classes are not the data's.
    """
    if not recipe.distill:
        return None
    if not recipe.teacher:
        raise ConfigError("The recipe lists distillation methods and no teacher; set config.teacher to its folder.")
    teacher = build.load(recipe.teacher)
    check_classes(teacher.detector.classes, classes, what=f"teacher {recipe.teacher}")
    return teacher


def check_classes(given: tuple[str, ...], wanted: tuple[str, ...], *, what: str) -> None:
    """Raises WeightsError for a teacher, ConfigError for data, where two class lists differ in names or order."""
    if given == wanted:
        return
    lacking, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    detail = f"it lacks {lacking} and adds {extra}" if lacking or extra else "the order differs"
    error = WeightsError if what.startswith("teacher") else ConfigError
    raise error(f"The classes of the {what} are not those of the training data: {detail}.")
