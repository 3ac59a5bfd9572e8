"""What a recipe names, loaded and held against the rest of it before a run begins."""

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.distill.classes import LACKING, columns
from jaxkd.errors import ConfigError, StorageError
from jaxkd.train import build, published
from jaxkd.weights import parts

log = logging.getLogger(__name__)
RECIPE, STUDENT = "config.json", "student"  # what a workdir holds: the resolved recipe, the best student
# Fields that change no number of a run: it may go on with others.
FREE = {
    "train": ("devices", "report_every", "checkpoint_every", "keep"),
    "loader": ("threads", "prefetch", "cache"),
}


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
    other = differences(binding(there), binding(json.loads(configs.dump(recipe))))
    if other:
        raise ConfigError(
            f"The workdir {workdir} belongs to another recipe: {'; '.join(other[:3])}; "
            "take a new --workdir, or the old recipe to go on."
        )


def binding(recipe: Any) -> Any:
    """A recipe's JSON without the fields that change no number of a run."""
    if not isinstance(recipe, dict):
        return recipe
    return {
        key: {name: value for name, value in binding(part).items() if name not in FREE.get(key, ())}
        if isinstance(part, dict)
        else part
        for key, part in recipe.items()
    }


def claim(workdir: Path, recipe: configs.Recipe) -> None:
    """Makes `workdir` this recipe's; a recipe that fails before its first step leaves the workdir free for another.

    Raises as `refuse_other` does.
    """
    refuse_other(workdir, recipe)
    file = workdir / RECIPE
    try:
        if not file.exists():
            spare = file.with_suffix(".part")
            spare.write_text(configs.dump(recipe) + "\n")
            os.replace(spare, file)
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


def load_teacher(recipe: configs.Recipe) -> build.Loaded | None:
    """The recipe's teacher, from a folder or a published file, with every leaf matched; None where nothing is taught.

    It computes as `beside` its student.

    Raises ConfigError where methods lack a teacher, WeightsError where its weights do not fit.
    """
    if not recipe.distill:
        return None
    if not recipe.teacher:
        raise ConfigError("The recipe lists distillation methods and no teacher; set config.teacher to its folder.")
    return beside(load_detector(recipe.teacher), recipe.student)


def beside(teacher: build.Loaded, student: configs.Recipe) -> build.Loaded:
    """The teacher as it computes beside a student: in its dtype, where both have one, whatever it was trained in."""
    if "dtype" in student and "dtype" in teacher.config:
        return build.recast(teacher, dtype=student.dtype)
    return teacher


def load_detector(path: str | Path, *, classes: Sequence[str] = ()) -> build.Loaded:
    """The detector in a published file, in the workdir of a run, or in a folder of weights, every leaf matched.

    Args:
      path: where it is; "assets:NAME" is what comes with the package, and FILE:PART one of a file's detectors.
      classes: names of the classes of a published file that has no list of its own.

    What was taken for granted of a published file is said in the log. Raises WeightsError where there is none, or it is
    broken.
    """
    place, part = parts.split(configs.asset_path(str(path)))
    if place.is_file():
        loaded, _ = published.load(place, part=part, classes=classes)
        log.warning("%s: %s", place.name, " ".join(loaded.notes))
        return loaded
    return build.load(place / STUDENT if (place / RECIPE).is_file() else str(path))


def own_sizes(loaded: build.Loaded, feeding: loader.Config) -> loader.Config:
    """The feeding with pictures as large as those that the detector was trained on, where it says so."""
    own = configs.build(configs.component("data.loader", **loaded.sizes))
    return dataclasses.replace(feeding, **{name: getattr(own, name) for name in loaded.sizes})


def shared_classes(teacher: tuple[str, ...], student: tuple[str, ...]) -> tuple[tuple[int, ...], str]:
    """The teacher's column for each of the student's classes, () for equal lists, and what there is to say of it."""
    if teacher == student:
        return (), ""
    found = columns(student, teacher)
    lacking = [name for name, column in zip(student, found, strict=True) if column == LACKING]
    if len(lacking) == len(student):
        return (), "The teacher knows none of the student's classes by name; only features can be taught."
    said = f"The teacher knows {len(student) - len(lacking)} of the student's {len(student)} classes by name"
    return found, f"{said}; it says nothing about {', '.join(lacking)}." if lacking else f"{said}, in another order."


def check_classes(
    given: tuple[str, ...], wanted: tuple[str, ...], *, whose: str = "the training data", split: str = "validation"
) -> None:
    """Raises ConfigError where the class list of a split's data differs from the wanted one in names or order."""
    if given == wanted:
        return
    lacking, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    detail = f"it lacks {lacking} and adds {extra}" if lacking or extra else "the order differs"
    raise ConfigError(f"The classes of the {split} data are not those of {whose}: {detail}.")
