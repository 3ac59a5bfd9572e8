"""A recipe's student and its teachers as the static part of a step."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.detectors.base import Detector
from jaxkd.errors import ConfigError
from jaxkd.loading import build, prepare, stored_teacher
from jaxkd.train import optimizer, view
from jaxkd.train.lesson import Lesson
from jaxkd.train.step import Pair


def teachers_of(recipe: configs.Recipe, loaded: Mapping[str, build.Loaded]) -> dict[str, build.Loaded]:
    """The teachers that have a method; the one of a recipe without methods only serves `inherit`."""
    return {name: teacher for name, teacher in loaded.items() if name or recipe.distill}


def with_detections(
    teachers: Mapping[str, build.Loaded], sources: dict[str, Source], *, limit: int
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """The sources with the detections of a teacher that is a file of them, and sentences on what was matched."""
    matched: tuple[str, ...] = ()
    for teacher in teachers.values():
        sources, sentences = stored_teacher.with_detections(teacher, sources, limit=limit)
        matched += sentences
    return sources, matched


def params_of(teachers: Mapping[str, build.Loaded]) -> Any:
    """The teachers' parameters as the step takes them: by name, or those of the only one; see `Pair.params_of`."""
    if set(teachers) <= {""}:
        return teachers[""].params if teachers else {}
    return {name: teacher.params for name, teacher in teachers.items()}


def make_pair(recipe: configs.Recipe, config: Any, student: Detector, teachers: Mapping[str, build.Loaded]) -> Pair:
    """What is static in the steps of a recipe with this student and these teachers."""
    recipes = configs.of_each_teacher(recipe)
    own_canvas = loader_config_of(recipe, taught="" in teachers).teacher_view
    lessons = {name: _lesson_fields(recipes[name], student, teacher) for name, teacher in teachers.items()}
    own = lessons.pop("", {"teacher": None, "methods": {}})
    return Pair(
        student=student,
        **own,
        optimizer=optimizer.build(configs.build(recipe.optimizer)),
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        own_canvas=own_canvas.on,
        bilinear=own_canvas.resample == "bilinear",
        further={name: Lesson(student=student, **fields) for name, fields in lessons.items()},
    )


def _lesson_fields(recipe: configs.Recipe, student: Detector, teacher: build.Loaded) -> dict[str, Any]:
    """The fields of a lesson that follow of its teacher and methods."""
    return {
        "teacher": teacher.detector,
        "methods": {name: configs.build(method) for name, method in recipe.distill.items()},
        "teacher_columns": prepare.class_columns(teacher.detector.classes, student.classes)[0],
    }


def loader_config_of(recipe: configs.Recipe, *, taught: bool) -> loader.Config:
    """The recipe's `data.loader`; without a teacher there is no canvas of its own."""
    loader_config: loader.Config = configs.build(recipe.data.loader)
    return loader_config if taught else loader_config.alone()


def on_canvas(name: str, teacher: build.Loaded, loader_config: loader.Config) -> Iterator[str]:
    """A sentence where a teacher of stretched pictures sees the student's canvas; `name` is "" for `config.teacher`."""
    own = loader_config.teacher_view.on and not name
    if teacher.sizes.get("fit") == "stretch" and loader_config.fit == "keep" and not own:
        height, width = teacher.sizes["buckets"][0]
        yield (
            f"The teacher{name and f' {name}'} is for pictures stretched to {height}x{width} and sees the student's "
            "canvas; data.loader.teacher_view gives config.teacher its own."
        )


def check_view(pair: Pair, loader_config: loader.Config, source: Source) -> None:
    """Raises ConfigError where feature maps of two canvases are compared cell by cell, and pictures lie elsewhere."""
    if pair.bilinear or not pair.taught_from("features"):
        return
    if difference := loader.first_unlike(source, loader_config):
        raise ConfigError(f"Feature maps cannot be compared cell by cell: {difference}; {view.REMEDY}.")
