"""A recipe's student and its teachers as the static part of a step."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxkd import config as configs
from jaxkd.config import view_field
from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.data.canvas import View
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
    recipes, views = configs.of_each_teacher(recipe), loader_config_of(recipe, teachers).views
    lessons = {
        name: _lesson_fields(recipes[name], student, teacher, views.get(name)) for name, teacher in teachers.items()
    }
    own = lessons.pop("", {"teacher": None, "methods": {}})
    return Pair(
        student=student,
        **own,
        optimizer=optimizer.build(configs.build(recipe.optimizer)),
        ema_decay=config.ema_decay,
        ema_warmup=config.ema_warmup,
        accumulate=config.accumulate,
        further={name: Lesson(student=student, **fields) for name, fields in lessons.items()},
    )


def _lesson_fields(
    recipe: configs.Recipe, student: Detector, teacher: build.Loaded, own_view: View | None
) -> dict[str, Any]:
    """The fields of a lesson that follow of its teacher, the teacher's own canvas and its methods."""
    return {
        "teacher": teacher.detector,
        "methods": {name: configs.build(method) for name, method in recipe.distill.items()},
        "teacher_columns": prepare.class_columns(teacher.detector.classes, student.classes)[0],
        "own_canvas": own_view is not None,
        "bilinear": own_view is not None and own_view.resample == "bilinear",
    }


def loader_config_of(recipe: configs.Recipe, teachers: Mapping[str, build.Loaded]) -> loader.Config:
    """The recipe's `data.loader`, with the canvases of those of these teachers that have one of their own.

    A file of detections sees no pictures, and has none.
    """
    loader_config: loader.Config = configs.build(recipe.data.loader)
    seeing = [name for name, teacher in teachers.items() if not stored_teacher.is_stored(teacher)]
    views = {name: _view(recipe, name) for name in seeing if name}
    if "" not in seeing:
        loader_config = loader_config.alone()
    if not any(view.on for view in views.values()):
        return loader_config
    return loader.SeveralViews(**vars(loader_config), further_views=views)


def _view(recipe: configs.Recipe, name: str) -> View:
    """The canvas of a teacher in `config.teachers`; one that is not `on` where the recipe has none."""
    return configs.build_part(View, recipe.teachers[name].get("view", {}), where=view_field(name))


def canvas_notes(recipe: configs.Recipe, teachers: Mapping[str, build.Loaded]) -> Iterator[str]:
    """Sentences on teachers whose canvas has no effect, or that may want one."""
    loader_config: loader.Config = configs.build(recipe.data.loader)
    views = {"": loader_config.teacher_view} | {name: _view(recipe, name) for name in teachers if name}
    if "" not in teachers and views[""].on:
        yield f"There is no teacher to teach, so {view_field('')} has no effect."
    for name, teacher in teachers.items():
        who = f"The teacher {name}".strip()
        if stored_teacher.is_stored(teacher) and views[name].on:
            yield f"{who} is a file of detections, which sees no pictures, so {view_field(name)} has no effect."
        elif teacher.sizes.get("fit") == "stretch" and loader_config.fit == "keep" and not views[name].on:
            height, width = teacher.sizes["buckets"][0]
            yield (
                f"{who} is for pictures stretched to {height}x{width} and sees the student's canvas; "
                f"{view_field(name)} gives it its own."
            )


def check_view(pair: Pair, loader_config: loader.Config, source: Source) -> None:
    """Raises ConfigError where feature maps of two canvases are compared cell by cell, and pictures lie elsewhere."""
    for name, lesson in pair.lessons.items():
        if lesson.bilinear or not lesson.taught_from("features"):
            continue
        remedy = view.REMEDY.format(view_field(name))
        if difference := loader.first_unlike(source, loader_config.for_teacher(name)):
            raise ConfigError(f"Feature maps cannot be compared cell by cell: {difference}; {remedy}.")
