"""Recipes of a teacher, of a student alone and of a student taught, derived from data and a few options."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.config import component, recipe
from jaxkd.data import presets
from jaxkd.data.base import Source
from jaxkd.derive import anchors, augmentation, learners, methods, schedule, sizes
from jaxkd.derive import student as networks
from jaxkd.derive.base import Choice, Notes, Reason, detector_of
from jaxkd.derive.learners import STRIDES, Learner
from jaxkd.detectors.parts import Anchors
from jaxkd.distill import base
from jaxkd.errors import ConfigError
from jaxkd.types import Traits

SIZES = {"fast": (10.0, 0.5), "balanced": (16.0, 1.0), "accurate": (24.0, 2.0)}  # wanted side; factor on PIXELS
PIXELS = {"cpu": 320**2, "gpu": 640**2, "tpu": 640**2}
BALANCE = 0.5  # of the detection loss's gradient, the most of a distillation term's
BALANCED = "no term of distillation pulls harder than half of what the detection loss does"
UNLABELLED = "half of each batch is of these pictures, in which the teacher tells what it is sure of"
OWN_CANVAS = "the teacher sees pictures as it was trained on them"
TEACHER_KNOWN = "the teacher is scored before anything learns from it"
NETWORK = Traits((), frozenset(("features", "box_predictions", "detections")), strides=STRIDES)  # as those derived
OF_TEACHER = "teacher:"  # in front of settings of the teacher's recipe that differ from the student's


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for; the rest is derived. Raises ConfigError for a size, platform or method that there is not."""

    student: str = "auto"  # one of `student.NAMES`, or where one is taken as it is: a recipe FILE[:ARG], or weights
    size: str = "balanced"  # a key of SIZES
    method: str = methods.AUTO  # or one of `methods.NAMES`, or several of them, as in "tar+gkd"
    augment: presets.Name = "auto"  # how training pictures are varied
    platform: str = "cpu"  # a key of PIXELS
    devices: int = 1
    seed: int = 0
    epochs: int = 0  # of the student; 0 to derive them
    initial: str = ""  # file of weights of the student's backbone
    teacher: str = ""  # a teacher's folder or file; empty for one that is trained on the same data
    teacher_initial: str = ""  # file of weights of the backbone of a teacher that is trained
    teacher_folder: str = "runs/teacher/student"  # where a teacher that is trained will be
    unlabelled: str = ""  # a folder of pictures without labels

    def __post_init__(self):
        for name, choices in (("size", SIZES), ("platform", PIXELS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"There is no {name} {getattr(self, name)!r}; take {phrases.listed([*choices])}.")
        methods.check(self.method)


@dataclasses.dataclass(frozen=True)
class Given:
    """Detectors that exist, as far as settings follow of them."""

    student: learners.Given | None = None  # where it is that of weights; that of a recipe is read here
    teacher: Traits = NETWORK  # of the teacher that the options name
    teacher_view: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of its own canvas; {} for none


@dataclasses.dataclass(frozen=True)
class Derived:
    """The derived recipes, and the reasons of their settings."""

    recipes: dict[
        str, configs.Recipe
    ]  # "teacher" where one is trained, "alone", "taught", and "unlabelled" if asked for
    reasons: tuple[Reason, ...]
    pictures: dict[str, int]  # their numbers in "train" and "val"
    classes: int


def derive(
    train: Source,
    val: Source,
    *,
    data: Mapping[str, configs.Recipe],
    options: Options,
    given: Given = Given(),
    steps: Choice | None = None,
    batch: Choice | None = None,
) -> Derived:
    """The recipes for these sources.

    Args:
      train, val: the sources, with one list of classes.
      data: their components, under "train" and "val".
      options: what is asked for.
      given: what is known of detectors that the options name.
      steps: those of a student's run, in place of its epochs.
      batch: pictures a step, in place of those that follow of the data.

    Raises DataError where no training picture has an object, ConfigError for options that there are not (see
    `student.of_recipe`), and WeightsError for a file of weights of no known backbone.
    """
    notes = Notes()
    sizes_of_loader = _loader_fields(train, val, options, notes)
    length = _Length(len(train.records), len(val.records), options, steps, batch)

    def recipe_of(learner: Learner, length: _Length, notes: Notes) -> configs.Recipe:
        loader = sizes_of_loader | _augmentation(train, learner.detector, options, notes)
        return _recipe(learner, {**data, "loader": component("data.loader", **loader)}, length, notes)

    scene = learners.Scene(train, sizes_of_loader)
    student = _student(scene, options, given, notes)
    alone = recipe_of(student, length, notes)
    recipes = {"alone": alone}
    if options.teacher:
        of_teacher = ()
    else:
        notes_of_teacher = Notes(prefix=OF_TEACHER)
        learner = learners.teacher(scene, student, initial=options.teacher_initial, notes=notes_of_teacher)
        longer = dataclasses.replace(length, times=schedule.TEACHER_LENGTH)
        recipes = {"teacher": recipe_of(learner, longer, notes_of_teacher)} | recipes
        given = dataclasses.replace(given, teacher=detector_of(learner.detector, train.classes).traits)
        of_teacher = notes_of_teacher.reasons
    recipes["taught"] = _taught(alone, given, train, options, notes)
    if options.unlabelled:
        recipes["unlabelled"] = _unlabelled(recipes["taught"], options, notes)
    reasons = (*notes.reasons, *of_teacher)
    return Derived(recipes, reasons, {"train": length.pictures, "val": length.scored}, len(train.classes))


@dataclasses.dataclass(frozen=True)
class _Length:
    """What the length of a run and its evaluations follow of."""

    pictures: int
    scored: int  # pictures of an evaluation
    options: Options
    steps: Choice | None  # of a student's run, in place of its epochs
    batch: Choice | None  # pictures a step, in place of what follows of the data
    times: int = 1  # as long as the student's run

    def fields(self, start: schedule.Start, notes: Notes) -> dict[str, configs.Recipe]:
        """The components "optimizer" and "train" for a detector that starts so."""
        options = self.options
        batch = self.batch or schedule.batch(self.pictures, platform=options.platform, devices=options.devices)
        notes.take("train.batch", batch)
        steps, epochs = self._steps_and_epochs(batch.value)
        number = steps.value or schedule.steps_of(epochs.value, self.pictures, batch=batch.value)
        every = schedule.evaluations(number, pictures=self.scored, batch=batch.value)
        return {
            "optimizer": _optimizer(start, batch.value, notes),
            "train": component(
                "train.loop",
                seed=notes.take("train.seed", Choice(options.seed, "decides weights, order and sampling")),
                batch=batch.value,
                steps=notes.take("train.steps", steps),
                epochs=notes.take("train.epochs", epochs),
                evaluate_every=notes.take("train.evaluate_every", every),
                evaluate_batch=notes.take("train.evaluate_batch", Choice(batch.value, "as in training")),
                ema_decay=notes.take("train.ema_decay", schedule.ema(batch.value)),
            ),
        }

    def _steps_and_epochs(self, batch: int) -> tuple[Choice, Choice]:
        """Both fields, one of which is 0 and left to the other."""
        if self.steps:
            return Choice(self.steps.value * self.times, self.steps.words), Choice(0, "the steps say it")
        epochs = schedule.epochs(self.pictures, batch=batch, wanted=self.options.epochs, times=self.times)
        steps = schedule.steps_of(epochs.value, self.pictures, batch=batch)
        return Choice(0, f"the epochs say it: {steps} steps"), epochs


def _optimizer(start: schedule.Start, batch: int, notes: Notes) -> configs.Recipe:
    rate, words = schedule.rate(start, batch=batch)
    fields = dataclasses.asdict(rate)
    from_where = {"random": "all weights start from random numbers", "pretrained": "the backbone is pretrained"}
    reasons = {"kind": from_where[start], "learning_rate": words}
    for name, value in fields.items():
        notes.take(f"optimizer.{name}", Choice(value, reasons.get(name, "as measured with this rate")))
    return component("train.optimizer", **fields)


def _recipe(learner: Learner, data: Mapping[str, configs.Recipe], length: _Length, notes: Notes) -> configs.Recipe:
    """The recipe of a run without a teacher."""
    initial = notes.take("initial", learner.initial)
    start: schedule.Start = "pretrained" if initial else "random"
    return recipe(student=learner.detector, initial=initial, data=data, **length.fields(start, notes))


def _loader_fields(train: Source, val: Source, options: Options, notes: Notes) -> dict[str, Any]:
    """The fields of `data.loader`."""
    wanted, factor = SIZES[options.size]
    size = sizes.working_size(train.records, wanted=wanted, pixels=int(factor * PIXELS[options.platform]))
    short, long = size.value
    pictures = [*train.records, *val.records]
    return {
        "short": notes.take("data.loader.short", Choice((short,), size.words)),
        "long": notes.take("data.loader.long", Choice(long, "the long side of most pictures, rounded up to 32")),
        "buckets": notes.take("data.loader.buckets", sizes.buckets(pictures, short=short, long=long)),
        "max_objects": notes.take("data.loader.max_objects", sizes.max_objects(train.records)),
    }


def _augmentation(train: Source, detector: configs.Recipe, options: Options, notes: Notes) -> dict[str, Any]:
    """The fields of `data.loader` that vary training pictures."""
    choices = augmentation.fields(options.augment, train, detector)
    return {name: notes.take(f"data.loader.{name}", choice) for name, choice in choices.items()}


def _student(scene: learners.Scene, options: Options, given: Given, notes: Notes) -> Learner:
    """The student that the options name."""
    name, initial = options.student, options.initial
    if name in networks.NAMES:
        return learners.student(scene, name, initial=initial, notes=notes)
    one = given.student or learners.Given.of(networks.of_recipe(name))
    return learners.given_student(scene, name, one, initial=initial, notes=notes)


def _taught(alone: configs.Recipe, given: Given, train: Source, options: Options, notes: Notes) -> configs.Recipe:
    """The student's recipe with the teacher that is given, or trained, and methods."""
    out = alone.copy_and_resolve_references()
    student, teacher = detector_of(alone.student, train.classes).traits, given.teacher
    capabilities = {"student": student.capabilities, "teacher": teacher.capabilities}
    names = notes.take("distill", methods.chosen(options.method, pictures=len(train.records), **capabilities))
    setting = methods.Setting(
        scales=_scales(alone, train, student, teacher),
        epochs=alone.train.epochs or max(alone.train.steps * alone.train.batch // len(train.records), 1),
        least_side=methods.least_side(train.records),
        shared=_predict_alike(student, teacher),
        alike=not options.teacher and student.strides == teacher.strides,
    )
    words = "as given" if options.teacher else "where the one that is trained here will be"
    with out.unlocked():
        out.teacher = notes.take("teacher", Choice(options.teacher or options.teacher_folder, words))
        if names != ("align",):  # whose gradient is at the backbone, where it is not measured
            out.train.balance.target = notes.take("train.balance.target", Choice(BALANCE, BALANCED))
        for field, value in given.teacher_view.items():
            choice = Choice(value, OWN_CANVAS)
            out.data.loader.teacher_view[field] = notes.take(f"data.loader.teacher_view.{field}", choice)
        out.train.teacher_check = notes.take("train.teacher_check", Choice(0, TEACHER_KNOWN))
        for name in names:
            method, reasons = methods.of(name, setting)
            out.distill[name] = method
            for field, choice in reasons.items():
                notes.take(f"distill.{name}.{field}", choice)
    return out.lock()


def _predict_alike(student: Traits, teacher: Traits) -> bool:
    """Whether the teacher predicts for the student's regions, and in the same form as the student."""
    of_boxes = ["box_predictions" in one.capabilities for one in (student, teacher)]
    return all(of_boxes) or (not any(of_boxes) and base.can_predict(teacher, student))


def _scales(alone: configs.Recipe, train: Source, student: Traits, teacher: Traits) -> dict[str, float]:
    """Sides in pixels by which "tar" and "gkd" put objects on levels: those of the student's region pooling.

    Without it they follow of the student's anchors, and without these of anchors that would fit the objects.
    """
    strides = student.strides or STRIDES
    detector = configs.build(alone.student)
    if pooling := getattr(detector, "pooling", None):
        scale = pooling.canonical_scale * anchors.CANONICAL_STRIDE / 2**pooling.canonical_level
    elif isinstance(getattr(detector, "anchors", None), Anchors):
        scale = anchors.canonical_scale(detector.anchors.sizes[0], stride=strides[0])
    else:
        objects = anchors.objects_in(train.records, configs.build(alone.data.loader))
        finest = anchors.ladder(objects, strides=strides, octaves=learners.OCTAVES).value[0]
        scale = anchors.canonical_scale(finest, stride=strides[0])
    finest_common = min(set(strides) & set(teacher.strides), default=strides[0])
    return {"tar": scale, "gkd": anchors.scale_on_finest(scale, stride=finest_common)}


def _unlabelled(taught: configs.Recipe, options: Options, notes: Notes) -> configs.Recipe:
    """The taught student's recipe with pictures without labels too."""
    out = taught.copy_and_resolve_references()
    source = component("data.unlabelled", images=options.unlabelled)
    with out.unlocked():
        out.data.unlabelled = notes.take("data.unlabelled", Choice(source, UNLABELLED))
    return out.lock()
