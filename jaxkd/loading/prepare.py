"""What a recipe names, loaded and held against the rest of it."""

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.data.relabelled import Relabelled
from jaxkd.data.repairs import Repairs
from jaxkd.distill.classes import LACKING, columns
from jaxkd.errors import ConfigError
from jaxkd.loading import build, published
from jaxkd.paths import path_of
from jaxkd.weights import parts

GROUPED = "categories_that_only_group"  # an entry among the repairs of a source

log = logging.getLogger(__name__)


def load_sources(data: configs.Recipe, *, aloud: bool = True) -> dict[str, Source]:
    """The sources "train" and "val" of a recipe, the second with the classes of the first.

    What they left out, repaired or guessed is said, where `aloud`. Raises ConfigError where validation has objects of
    other classes.
    """
    train = _loaded(data["train"])
    try:
        val = _with_classes(_loaded(data["val"]), data["val"], train.classes, "the training data", "validation")
    except ConfigError:
        if GROUPED not in train.repairs:
            raise
        train = _loaded(data["train"], groups="keep")  # what groups the classes of one is a class of the other
        val = _with_classes(_loaded(data["val"]), data["val"], train.classes, "the training data", "validation")
    found = {"train": train, "val": val}
    return {name: _announced(source) for name, source in found.items()} if aloud else found


def load_source(
    config: configs.Recipe, *, classes: Sequence[str] = (), whose: str = "the detector", split: str = "validation"
) -> Source:
    """The data source that a recipe's component describes, for a detector of these classes; () for its own.

    What it left out, repaired or guessed is said. Raises ConfigError where it has objects of other classes; `whose` and
    `split` say in the message whose the classes are, and what the data is.
    """
    source = _loaded(config)
    return _announced(_with_classes(source, config, tuple(classes), whose, split) if classes else source)


def _loaded(config: configs.Recipe, **fields: Any) -> Source:
    built = dataclasses.replace(configs.build(config), **fields)
    source = configs.module_of(built).load(built)
    source.repairs = Repairs.like(source.repairs, title=config.name)
    return source


def _announced(source: Source) -> Source:
    for sentence in source.repairs.sentences():
        log.warning("%s: %s", source.repairs.title, sentence)
    return source


def _with_classes(source: Source, config: configs.Recipe, classes: tuple[str, ...], whose: str, split: str) -> Source:
    """The source with this list of classes, to which it is brought by their names."""
    if source.classes == classes:
        return source
    if GROUPED in source.repairs and set(source.classes) < set(classes):
        source = _loaded(config, groups="keep")
    counts = Counter(source.classes[label] for record in source.records for label in record.labels.tolist())
    if beyond := [name for name in source.classes if counts[name] and name not in classes]:
        near = "; ".join(f"{name} ({counts[name]} objects{configs.closest(name, set(classes))})" for name in beyond[:3])
        raise ConfigError(
            f"The {split} data has objects of classes that {whose} does not know: {near}. Give both one list of "
            "classes: the same categories in both annotation files, or the field classes where the source has one."
        )
    if not set(source.classes) & set(classes):
        raise ConfigError(
            f"The {split} data has none of the classes of {whose}: it has {', '.join(source.classes[:5])}, and not "
            f"{', '.join(classes[:5])}."
        )
    if lacking := [name for name in classes if name not in source.classes]:
        title, names = source.repairs.title, ", ".join(lacking)
        log.warning("%s: it does not know %s, of which nothing can be scored.", title, names)
    return Relabelled(source, classes) if source.classes != classes else source


def load_teacher(recipe: configs.Recipe) -> build.Loaded | None:
    """The recipe's teacher, from a folder or a published file, with every leaf matched; None where it names none.

    It computes as `beside` its student.

    Raises ConfigError where methods lack a teacher, or nothing would use it; WeightsError where its weights do not fit.
    """
    if recipe.distill and not recipe.teacher:
        methods = ", ".join(recipe.distill)
        raise ConfigError(
            f"The recipe has distillation methods ({methods}) and no teacher; name its folder or file with "
            "--config.teacher=PATH."
        )
    if not recipe.teacher:
        return None
    if not recipe.distill and recipe.inherit == "none":
        raise ConfigError(
            f"Nothing would use the teacher {recipe.teacher}: the recipe has no distillation method and inherits no "
            "part. Take a recipe with a method (such as --config=RECIPE:tar), or leave --config.teacher out."
        )
    return beside(load_detector(recipe.teacher), recipe.student)


@contextlib.contextmanager
def naming_teacher(recipe: configs.Recipe, teacher: build.Loaded | None, classes: tuple[str, ...]) -> Iterator[None]:
    """Has a ConfigError of a method name the teacher, where that knows none of the data's classes."""
    try:
        yield
    except ConfigError as error:
        if teacher is None or set(teacher.detector.classes) & set(classes):
            raise
        theirs, ours = (
            ", ".join(names[:5]) + ("..." if len(names) > 5 else "") for names in (teacher.detector.classes, classes)
        )
        raise ConfigError(
            f"The teacher {recipe.teacher} knows none of the classes of the data: it knows {theirs}, and the data has "
            f"{ours}; name a teacher of these with --config.teacher=PATH. ({error})"
        ) from error


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
    place, part = parts.split(path_of(str(path)))
    if place.is_file():
        loaded, _ = published.load(place, part=part, classes=classes)
        log.warning("%s: %s", place.name, " ".join(loaded.notes))
        return loaded
    return build.load(place / build.STUDENT if (place / build.RECIPE).is_file() else str(path))


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
