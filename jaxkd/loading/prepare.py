"""The data and the teacher of a recipe, loaded, with their class lists compared."""

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxkd import config as configs
from jaxkd.data import loader, unlabelled
from jaxkd.data.base import Source
from jaxkd.data.relabelled import Relabelled
from jaxkd.data.repairs import Repairs
from jaxkd.data.unlabelled import Unlabelled
from jaxkd.distill.classes import LACKING, columns
from jaxkd.errors import ConfigError
from jaxkd.loading import build, foundation, hub, published, stored_teacher
from jaxkd.paths import path_of
from jaxkd.weights import parts

GROUPED = "categories_that_only_group"  # an entry among the repairs of a source

log = logging.getLogger(__name__)


def load_sources(data: configs.Recipe, *, warn: bool = True) -> dict[str, Source]:
    """The sources "train" and "val" of a recipe, the second, where there is one, with the classes of the first.

    What they left out, repaired or guessed is logged as warnings, where `warn`. Raises ConfigError where validation has
    objects of other classes.
    """
    train = _load(data["train"])
    if "val" not in data:
        return {"train": _warned(train) if warn else train}
    try:
        val = _with_classes(_load(data["val"]), data["val"], train.classes, "the training data", "validation")
    except ConfigError:
        if GROUPED not in train.repairs:
            raise
        train = _load(data["train"], groups="keep")  # a category that groups classes in one has objects in the other
        val = _with_classes(_load(data["val"]), data["val"], train.classes, "the training data", "validation")
    return {"train": _warned(train), "val": _warned(val, unless=train)} if warn else {"train": train, "val": val}


def load_unlabelled(data: configs.Recipe, train: Source, *, warn: bool = True) -> Unlabelled:
    """The pictures without labels of a recipe, for the classes of its training data; raises as `open_folder` does."""
    source = unlabelled.open_folder(configs.build(data.unlabelled), like=train)
    if warn:
        _warned(source)
    return source


def load_source(
    config: configs.Recipe,
    *,
    classes: Sequence[str] = (),
    whose: str = "the detector",
    split: str = "validation",
    warn: bool = True,
) -> Source:
    """The data source of a recipe's component, with these classes; () for the source's.

    What it left out, repaired or guessed is logged as warnings, where `warn`. Raises ConfigError where it has objects
    of other classes; `whose` and `split` name the owner of the classes and the data in the message.
    """
    source = _load(config)
    source = _with_classes(source, config, tuple(classes), whose, split) if classes else source
    return _warned(source) if warn else source


def _load(config: configs.Recipe, **fields: Any) -> Source:
    component = _with_fields(configs.build(config), fields)
    source = configs.module_of(component).load(component)
    source.repairs = Repairs.like(source.repairs, title=config.name)
    return source


def _with_fields(component: Any, fields: Mapping[str, Any]) -> Any:
    """A source's Config with these fields, where it is a part of another source those of that."""
    inner = getattr(component, "source", None)
    if dataclasses.is_dataclass(inner):
        return dataclasses.replace(component, source=_with_fields(inner, fields))
    return dataclasses.replace(component, **fields)


def _warned(source: Source, *, unless: Source | None = None) -> Source:
    """The source; what it repaired is logged, but for what is so of another part of the same data."""
    said = set() if unless is None else {(unless.repairs.title, sentence) for sentence in unless.repairs.sentences()}
    for sentence in source.repairs.sentences():
        if (source.repairs.title, sentence) not in said:
            log.warning("%s: %s", source.repairs.title, sentence)
    return source


def _with_classes(source: Source, config: configs.Recipe, classes: tuple[str, ...], whose: str, split: str) -> Source:
    """The source with this list of classes, matched by name."""
    if source.classes == classes:
        return source
    if GROUPED in source.repairs and set(source.classes) < set(classes):
        source = _load(config, groups="keep")
    counts = Counter(source.classes[label] for record in source.records for label in record.labels.tolist())
    if unknown_classes := [name for name in source.classes if counts[name] and name not in classes]:
        examples = "; ".join(
            f"{name} ({counts[name]} objects{configs.closest(name, set(classes))})" for name in unknown_classes[:3]
        )
        raise ConfigError(
            f"The {split} data has objects of classes that {whose} does not know: {examples}. Give both one list of "
            "classes: the same categories in both annotation files, or the field classes where the source has one."
        )
    if not set(source.classes) & set(classes):
        raise ConfigError(
            f"The {split} data has none of the classes of {whose}: it has {', '.join(source.classes[:5])}, and not "
            f"{', '.join(classes[:5])}."
        )
    if missing_classes := [name for name in classes if name not in source.classes]:
        title, names = source.repairs.title, ", ".join(missing_classes)
        log.warning("%s: it does not know %s, of which nothing can be scored.", title, names)
    return Relabelled(source, classes) if source.classes != classes else source


def load_teacher(recipe: configs.Recipe, source: Source | None = None) -> build.Loaded | None:
    """The recipe's teacher, from a folder or a published file, with every leaf matched; None where it names none.

    A detector computes in the dtype of the student, a foundation backbone in float32. A file of detections
    needs the source whose pictures it is about.

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
    if source is not None and stored_teacher.is_one(path_of(recipe.teacher)):
        return stored_teacher.load(path_of(recipe.teacher), source)
    return match_dtype(load_network(recipe.teacher), recipe.student)


def load_teachers(recipe: configs.Recipe, source: Source) -> dict[str, build.Loaded]:
    """Each teacher of a recipe as `load_teacher` gives it, by its name; "" is that of `config.teacher`.

    Raises ConfigError where a path is missing, and as `check_files` does.
    """
    recipes = configs.of_each_teacher(recipe)
    for name, one in recipes.items():
        if name and not one.teacher:
            raise ConfigError(
                f"The teacher {name} has no path; name its folder or file in config.teachers.{name}.path."
            )
    loaded = {name: load_teacher(one, source) for name, one in recipes.items()}
    teachers = {name: one for name, one in loaded.items() if one is not None}
    check_files(teachers)
    return teachers


def check_files(teachers: Mapping[str, build.Loaded]) -> None:
    """Raises ConfigError where two teachers are files of detections."""
    if sum(map(stored_teacher.is_stored, teachers.values())) > 1:
        raise ConfigError("Two teachers are files of detections; put the files in one folder, which is one teacher.")


def load_network(path: str) -> build.Loaded:
    """A teacher that is a network: a foundation backbone, or a detector as `load_detector` takes it."""
    if not foundation.is_one(path_of(path)):
        return load_detector(path)
    loaded = foundation.load(path_of(path))
    log.warning("%s: %s", path_of(path).name, " ".join(loaded.notes))
    return loaded


@contextlib.contextmanager
def naming_teacher(recipe: configs.Recipe, teacher: build.Loaded | None, classes: tuple[str, ...]) -> Iterator[None]:
    """Adds the teacher to a ConfigError raised inside, where the teacher has none of the data's classes."""
    try:
        yield
    except ConfigError as error:
        if teacher is None or not teacher.detector.classes or set(teacher.detector.classes) & set(classes):
            raise
        teacher_names, data_names = (
            ", ".join(names[:5]) + ("..." if len(names) > 5 else "") for names in (teacher.detector.classes, classes)
        )
        raise ConfigError(
            f"The teacher {recipe.teacher} knows none of the classes of the data: it knows {teacher_names}, and the "
            f"data has {data_names}; name a teacher of these with --config.teacher=PATH. ({error})"
        ) from error


def match_dtype(teacher: build.Loaded, student: configs.Recipe) -> build.Loaded:
    """The teacher, computing in the student's dtype, where both have one."""
    if "dtype" in student and "dtype" in teacher.config:
        return build.with_dtype(teacher, dtype=student.dtype)
    return teacher


def load_detector(path: str | Path, *, classes: Sequence[str] = ()) -> build.Loaded:
    """The detector in a published file or folder, a run's workdir, or a folder of weights, every leaf matched.

    Args:
      path: file or folder; "assets:NAME" is one that comes with the package, and FILE:PART one of a file's detectors.
      classes: names of the classes of a published file or folder that has no list of its own.

    What was assumed about a published detector is logged. Raises WeightsError where there is none, or it is broken.
    """
    location, part = parts.split(path_of(str(path)))
    if location.is_file() or hub.is_one(location):
        if location.is_file():
            loaded, _ = published.load(location, part=part, classes=classes)
        else:
            loaded = hub.load(location, classes=classes)
        log.warning("%s: %s", location.name, " ".join(loaded.notes))
        return loaded
    folder = build.folder_of(location)
    return build.load(str(path) if folder == location else folder)


def with_training_sizes(loaded: build.Loaded, loader_config: loader.Config) -> loader.Config:
    """The loader's Config with the sizes of the pictures that the detector was trained on, where they are known."""
    training = configs.build(configs.component("data.loader", **loaded.sizes))
    return dataclasses.replace(loader_config, **{name: getattr(training, name) for name in loaded.sizes})


def class_columns(teacher: tuple[str, ...], student: tuple[str, ...]) -> tuple[tuple[int, ...], str]:
    """The teacher's column for each of the student's classes, () for equal or disjoint lists, and a sentence or ""."""
    if teacher == student:
        return (), ""
    if not teacher:
        return (), "The teacher is a foundation backbone, which knows no classes; only features are taught."
    teacher_columns = columns(student, teacher)
    missing_classes = [name for name, column in zip(student, teacher_columns, strict=True) if column == LACKING]
    if len(missing_classes) == len(student):
        return (), "The teacher knows none of the student's classes by name; only features can be taught."
    summary = f"The teacher knows {len(student) - len(missing_classes)} of the student's {len(student)} classes by name"
    return (
        teacher_columns,
        f"{summary}; it says nothing about {', '.join(missing_classes)}."
        if missing_classes
        else f"{summary}, in another order.",
    )
