"""The teachers of a recipe in shapes, whether their weights and files are here or not, and a sentence on each."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxkd import config as configs
from jaxkd.data import detections_file
from jaxkd.data.base import Source
from jaxkd.errors import ConfigError
from jaxkd.loading import build, foundation, hub, prepare, stored_teacher
from jaxkd.paths import path_of
from jaxkd.phrases import listed
from jaxkd.weights import parts

NOTHING_TAUGHT = "Nothing is taught."


def load(
    recipe: configs.Recipe, given: Mapping[str, Any], *, source: Source | None, classes: tuple[str, ...]
) -> tuple[dict[str, build.Loaded], str]:
    """Each teacher that teaches, by name, with the shapes of its parameters, and the sentences on all of them.

    Args:
      recipe: complete.
      given: in place of the recipe's teachers, by name ("" is `config.teacher`): a folder, a published file, or the
        component of a detector like it.
      source: the training data; None where it is not here.
      classes: of the student.

    Raises ConfigError where a teacher is missing or not needed, and WeightsError where a file cannot be read.
    """
    recipes = {name: one for name, one in configs.of_each_teacher(recipe).items() if one.distill}
    if given.keys() - recipes.keys():
        if not recipes:
            raise ConfigError("The recipe teaches nothing, so there is no use for --teacher.")
        names = listed([one or "config.teacher" for one in recipes])
        raise ConfigError(
            f"The recipe's teachers are {names}; say in whose place --teacher is, such as "
            f"--teacher={next(iter(recipes))}=RECIPE."
        )
    teachers, notes = {}, []
    for name, one in recipes.items():
        path = path_of(one.teacher)
        if name not in given and one.teacher and stored_teacher.is_one(path):
            teachers[name], note = _stored(path, source, classes)
        else:
            teachers[name], note = _network(one, given.get(name, ""), name=name, classes=classes)
        notes.append(f"{name}: {note}" if name else note)
    prepare.check_files(teachers)
    return teachers, "\n".join(notes) or NOTHING_TAUGHT


def _network(recipe: configs.Recipe, given: Any, *, name: str, classes: tuple[str, ...]) -> tuple[build.Loaded, str]:
    """A teacher that is a network, of a recipe of one teacher."""
    if given and not isinstance(given, str):
        detector = build.detector(given, classes)
        loaded = build.Loaded(detector, build.param_shapes(detector), given, {}, {})
        return prepare.match_dtype(loaded, recipe.student), "The teacher has the shape of a recipe's student."
    place = given or recipe.teacher
    path = path_of(place)
    folder = build.folder_of(path)
    if place and build.file_of(folder, build.ABOUT).is_file():
        loaded = prepare.match_dtype(build.load_shapes(folder), recipe.student)
        return loaded, f"The teacher is described in {folder / build.ABOUT}."
    if place and (parts.split(path)[0].is_file() or foundation.is_one(path) or hub.is_one(path)):
        loaded = prepare.load_network(place)
        loaded = dataclasses.replace(loaded, params=jax.eval_shape(lambda: loaded.params))
        return prepare.match_dtype(loaded, recipe.student), f"The teacher is in {place}."
    which = f"{name} of the recipe" if name and not place else place or "of the recipe"
    flag = f"--teacher={name}=" if name else "--teacher="
    raise ConfigError(
        f"The teacher {which} is not here; give {flag}RECIPE, such as coco:faster_rcnn-r101, for one whose student has "
        f"its shape, or {flag}FOLDER with its detector.json."
    )


def _stored(path: Path, source: Source | None, classes: tuple[str, ...]) -> tuple[build.Loaded, str]:
    """A teacher that is a file of detections, or several."""
    files = [file for file in stored_teacher.files_of(path) if file.is_file()]
    if files and source is not None:
        loaded, assumed = stored_teacher.load(path, source), ""
    else:
        stored = tuple(map(detections_file.read, files))
        loaded = build.Loaded(stored_teacher.StoredDetections(classes), {}, ConfigDict(), {}, {}, stored=stored)
        assumed = " Its classes are taken to be those of the data."
    if not files:
        return loaded, f"The file of detections {path} is not here: it is taken to have no scores of classes.{assumed}"
    scores = "with" if has_class_scores(loaded) else "without"
    return loaded, f"The teacher's detections are in {path}, {scores} scores of classes.{assumed}"


def has_class_scores(loaded: build.Loaded) -> bool:
    """Whether a teacher is a file of detections with scores of all classes."""
    return any(one.class_scores is not None for one in loaded.stored)
