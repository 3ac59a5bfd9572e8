"""Detectors built from recipes, and folders of weights that are loaded and saved."""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxkd import config as configs
from jaxkd import json_values
from jaxkd.data import detections_file, pictures
from jaxkd.detectors.base import Detector, Params, Teacher
from jaxkd.errors import ConfigError, StorageError, WeightsError
from jaxkd.paths import path_of
from jaxkd.weights import read, tree

FORMAT = 2  # of detector.json; in 1 the settings of a detector were not in parts
WEIGHTS, ABOUT = "weights.safetensors", "detector.json"
STUDENT = "student"  # the folder of weights in a workdir
RECIPE = "config.json"  # in a workdir: the resolved recipe
FRESH = ".fresh"  # below a folder of weights: complete new files, until they are moved up
SIZES = ("buckets", "short", "long", "fit", "bucket_by", "antialias")  # of `data.loader`


@dataclass(frozen=True)
class Loaded:
    """A detector with its parameters and what its folder says about them."""

    detector: Any  # a Detector, or as a teacher one that gives less; see `detectors.base`
    params: Params
    config: configs.Recipe
    scores: dict[str, float]  # on the validation data of its training
    sizes: dict[str, Any]  # the fields SIZES of `data.loader` that it was trained with
    reading: pictures.Config = pictures.PLAIN  # how picture files were decoded in training
    notes: tuple[str, ...] = ()  # sentences on what was assumed for the file of another library
    stored: tuple[detections_file.Detections, ...] = ()  # of a teacher that is a file of detections, or several


def detector(config: configs.Recipe, classes: Sequence[str]) -> Any:
    """The detector that a recipe describes, for these classes: a `Detector`, or one that only gives what it has."""
    component = configs.build(config)
    return configs.module_of(component).build(component, classes=tuple(classes))


def student(config: configs.Recipe, classes: Sequence[str]) -> Detector:
    """The detector that a recipe trains, for these classes; ConfigError where it is of a kind that is not trained."""
    model = detector(config, classes)
    if not isinstance(model, Detector):
        raise ConfigError(
            f"{config.name} cannot be trained: it has no losses here, and only detects and teaches; take another "
            "student, and this one as its teacher."
        )
    return model


def folder_of(path: Path) -> Path:
    """The folder of weights in a workdir; any other path unchanged."""
    return path / STUDENT if (path / RECIPE).is_file() else path


def param_shapes(model: Teacher) -> Params:
    """The shapes of a detector's parameters, without computing any."""
    return jax.eval_shape(model.init, jax.random.key(0))


def load(folder: str | Path) -> Loaded:
    """The detector in a folder with weights.safetensors and detector.json, every leaf matched.

    Raises WeightsError where a file is missing or broken, or a leaf is missing, unused or misshapen.
    """
    loaded = load_shapes(folder)
    params, _ = tree.match(loaded.params, read.read(file_of(path_of(str(folder)), WEIGHTS)))
    return dataclasses.replace(loaded, params=jax.tree.map(jax.numpy.asarray, params))


def load_shapes(folder: str | Path) -> Loaded:
    """The detector that a folder's detector.json describes, with shapes in place of its parameters.

    Raises WeightsError where the file is missing or broken.
    """
    path = path_of(str(folder))
    try:
        about = json.loads(file_of(path, ABOUT).read_text(encoding="utf-8"))
        if (form := about.get("format", FORMAT)) != FORMAT:
            remedy = "train or convert it again, or take the jaxkd that wrote it" if form == 1 else "update jaxkd"
            raise WeightsError(f"{path / ABOUT} is of form {form!r}, and this jaxkd reads form {FORMAT}: {remedy}.")
        config, classes = configs.parse(json.dumps(about["detector"])), tuple(about["classes"])
        if isinstance(about["classes"], str) or not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes are no list of names")
        scores = {
            name: math.nan if value is None else float(value) for name, value in dict(about.get("scores", {})).items()
        }
        sizes = configs.parse(json.dumps(about.get("sizes", {}))).to_dict()
        reading = configs.build(
            configs.component("data.pictures", **configs.parse(json.dumps(about.get("reading", {}))))
        )
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} holds no {ABOUT}; give the folder 'student' of a finished run, or one written by jaxkd."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError) as error:
        raise WeightsError(f"{path / ABOUT} is not a description of a detector: {error!r}.") from error
    try:
        model = detector(config, classes)
    except ConfigError as error:
        raise WeightsError(f"{path / ABOUT} is not a description of a detector: {error}") from error
    return Loaded(model, param_shapes(model), config, scores, sizes, reading)


def with_dtype(loaded: Loaded, *, dtype: str) -> Loaded:
    """The same detector with the same parameters, computing in `dtype`."""
    config = loaded.config.copy_and_resolve_references()
    config.dtype = dtype
    return dataclasses.replace(loaded, detector=detector(config, loaded.detector.classes), config=config)


def save(
    folder: Path,
    params: Params,
    *,
    config: configs.Recipe,
    classes: Sequence[str],
    scores: dict[str, float],
    sizes: dict[str, Any] | None = None,
    reading: pictures.Config = pictures.PLAIN,
    half: bool = False,
) -> None:
    """Writes a folder that `load` reads, atomically: a process that dies meanwhile leaves the old or the new detector.

    Raises StorageError where it cannot be written.
    """
    arrays = tree.flatten(jax.device_get(params))
    about = {"format": FORMAT, "detector": config.to_dict(), "classes": list(classes), "scores": scores}
    about |= {"sizes": sizes or {}, "reading": dataclasses.asdict(reading)}
    part = folder / f"{FRESH}.part"
    try:
        _move_up(folder)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        read.save(part / WEIGHTS, arrays, half=half)
        (part / ABOUT).write_text(json_values.dumps(about, indent=2) + "\n")
        for name in (WEIGHTS, ABOUT):
            with (part / name).open("rb") as file:
                os.fsync(file.fileno())
        part.rename(folder / FRESH)
        _move_up(folder)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def file_of(folder: Path, name: str) -> Path:
    """The file WEIGHTS or ABOUT of a folder of weights; it is below FRESH where a process died in `save`."""
    fresh = folder / FRESH / name
    return fresh if fresh.is_file() else folder / name


def _move_up(folder: Path) -> None:
    """Moves the fresh files, if there are any, to their places; new weights are never beside an old description."""
    fresh = folder / FRESH
    if (fresh / WEIGHTS).is_file():
        (folder / ABOUT).unlink(missing_ok=True)
        (fresh / WEIGHTS).replace(folder / WEIGHTS)
    if (fresh / ABOUT).is_file():
        (fresh / ABOUT).replace(folder / ABOUT)
    if fresh.is_dir():
        fresh.rmdir()
