"""What a student learns of one teacher in a step: the outputs of both, and the terms of the methods."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, cast

import jax
from flax import struct
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from jaxkd.config import module_of
from jaxkd.detectors.base import Detector, Stage, Teacher, predict_regions
from jaxkd.distill import base, classes, fit
from jaxkd.errors import ConfigError
from jaxkd.ops import box_codes
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.random_boxes import random_boxes
from jaxkd.train import view
from jaxkd.train.balance import balanced
from jaxkd.train.state import Tree
from jaxkd.types import (
    Batch,
    Capability,
    Detections,
    DetectorOutputs,
    Features,
    Inputs,
    Losses,
    Predictions,
    Regions,
    Reliability,
    Term,
    Traits,
)

OF_METHODS = jnp.iinfo(jnp.int32).max  # in place of a picture's id, for the random keys of methods
OF_RANDOM_BOXES = 1  # by which a picture's key is folded in for boxes at random
STUDENT_REGIONS = base.RegionSource()  # the regions sampled for the student's detection loss


@dataclass(frozen=True)
class Lesson:
    """A student, one of its teachers, and the methods by which it learns of that."""

    student: Detector
    teacher: Teacher | None
    methods: dict[str, Any] = dataclasses.field(hash=False)  # their Configs, by the names that the recipe gives them
    _: dataclasses.KW_ONLY
    teacher_columns: tuple[int, ...] = ()  # the teacher's index of each student class; () for equal or disjoint lists
    own_canvas: bool = False  # whether the teacher sees the batch on a canvas of its own (`Batch.for_teacher`)
    bilinear: bool = False  # whether the teacher's feature maps are interpolated there, to the student's grid

    @functools.cached_property
    def teacher_traits(self) -> Traits:
        """The teacher's traits as methods see them: with the student's class list where there are `teacher_columns`.

        Anchors on another canvas are not the student's.
        """
        assert self.teacher is not None
        traits, classes = self.teacher.traits, self.student.classes
        if self.own_canvas and traits.anchors is not None:
            traits = dataclasses.replace(traits, anchors=(base.OWN_CANVAS, *traits.anchors))
        if not self.teacher_columns:
            return traits
        background = None if traits.background is None else len(classes)
        return dataclasses.replace(traits, classes=classes, background=background)

    def taught_from(self, capability: Capability) -> bool:
        """Whether the teacher gives this, and some method needs it of the teacher."""
        if self.teacher is None or capability not in self.teacher.traits.capabilities:
            return False
        return any(capability in module_of(config).needs(config).teacher for config in self.methods.values())


class StepInputs(struct.PyTreeNode):
    """Arguments of `forward` that are constant within a micro-batch."""

    batch: Batch
    teacher_params: Tree  # {} without a teacher
    teacher_features: Features | None = None  # stop-gradient; see `teacher_features`
    teacher_detections: Detections | None = None  # see `teacher_detections`
    further: dict[str, "StepInputs"] = struct.field(default_factory=dict)  # those of other teachers, by name
    memory: dict[str, Any] = struct.field(default_factory=dict)  # method state that is kept between epochs, by method
    key: Any = None  # scalar, the random key of the step
    decay: dict[str, Any] = struct.field(default_factory=dict)  # by method, the factor on its decaying terms
    warmup: dict[str, Any] = struct.field(default_factory=dict)  # by method that has one, the factor on its other terms
    balance: dict[str, Any] = struct.field(default_factory=dict)  # by METHOD/KIND, the factor on terms of this kind


def check_fit(lesson: Lesson) -> None:
    """Raises ConfigError where a method needs what the student or the teacher does not give."""
    assert lesson.teacher is not None
    student = fit.party("student", lesson.student, lesson.student.traits)
    fit.check(lesson.methods, student, fit.party("teacher", lesson.teacher, lesson.teacher_traits))


def check_reliability(lesson: Lesson) -> None:
    """Raises ConfigError where a method's `reliability_from` names no method of the lesson that gives reliabilities."""
    available = sorted(name for name, config in lesson.methods.items() if hasattr(module_of(config), "reliability"))
    for name, config in lesson.methods.items():
        source = getattr(config, "reliability_from", "")
        if source and source not in available:
            raise ConfigError(
                f"distill.{name}.reliability_from is '{source}', which is no method of the same teacher that has "
                f"reliabilities; there are {available}."
            )


def with_outputs(lesson: Lesson, inputs: StepInputs) -> StepInputs:
    """The inputs with the outputs of one teacher, whose parameters and canvas they hold."""
    return inputs.replace(
        teacher_features=teacher_features(lesson, inputs.teacher_params, inputs.batch),
        teacher_detections=teacher_detections(lesson, inputs.teacher_params, inputs.batch),
    )


def teacher_features(lesson: Lesson, teacher_params: Tree, batch: Batch) -> Features | None:
    """The teacher's feature maps of its own canvas, without a gradient; None without a method, or if it gives none."""
    if lesson.teacher is None or not lesson.methods or "features" not in lesson.teacher.traits.capabilities:
        return None
    return lax.stop_gradient(cast(Detector, lesson.teacher).features(teacher_params, batch.as_teacher_sees()))


def teacher_maps(lesson: Lesson, features: Features, batch: Batch) -> Features:
    """The teacher's feature maps as methods see them: on the student's grid."""
    assert lesson.teacher is not None
    return view.on_student_grid(features, lesson.teacher.traits, batch, bilinear=lesson.bilinear)


def teacher_detections(lesson: Lesson, teacher_params: Tree, batch: Batch) -> Detections | None:
    """The teacher's detections with the student's labels, without a gradient; None where no method needs them."""
    if not lesson.taught_from("detections"):
        return None
    teacher = cast(Detector, lesson.teacher)
    detections = lax.stop_gradient(view.to_student(teacher.detect(teacher_params, batch.as_teacher_sees()), batch))
    if lesson.teacher_columns:
        return classes.relabelled(detections, lesson.teacher_columns, classes=len(teacher.classes))
    return detections


def distill(
    lesson: Lesson, params: Tree, inputs: StepInputs, shared: Inputs, *, keys: Key[Array, "b"], first: int = 0
) -> Losses:
    """The terms of all methods of a lesson, multiplied by their factors, and their metrics, named METHOD/NAME.

    `shared` has the outputs of both detectors on the regions of the student's detection loss. `first` is the number of
    the first method among those of all lessons, by which random keys differ.
    """
    student_features = shared.student.features
    by_source: dict[base.RegionSource, Inputs] = {STUDENT_REGIONS: shared}
    terms, metrics = {}, {}
    methods_key = jax.random.fold_in(inputs.key, OF_METHODS)
    for index, (name, config) in enumerate(lesson.methods.items(), start=first):
        module, key, outcomes = module_of(config), jax.random.fold_in(methods_key, index), []
        for source in module.region_sources(config):
            if source not in by_source:  # when first needed: this keeps the order in which gradients are summed
                by_source[source] = on_regions(
                    lesson, params["detector"], student_features, inputs, source=source, keys=keys
                )
            method_inputs = by_source[source].replace(memory=inputs.memory.get(name), key=key)
            method_inputs = method_inputs.replace(
                reliability=_reliability(lesson, config, method_inputs, inputs.memory)
            )
            outcomes.append(module.losses(config, params["distill"][name], method_inputs))
        losses, factor = base.summed(outcomes), inputs.decay[name]
        method_terms = base.factored(losses, decay=factor, warmup=inputs.warmup.get(name))
        method_metrics = losses.metrics | {"decay": Term(factor, jnp.ones(()))}
        terms |= {f"{name}/{part}": term for part, term in method_terms.items()}
        metrics |= {f"{name}/{part}": term for part, term in method_metrics.items()}
    return Losses(terms=balanced(terms, inputs.balance), metrics=metrics)


def image_keys(inputs: StepInputs) -> Key[Array, "b"]:
    """A random key for each picture, which depends on the step and on the picture's id alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(inputs.key, inputs.batch.ids)


def on_regions(
    lesson: Lesson,
    student_params: Tree,
    student_features: Features,
    inputs: StepInputs,
    *,
    source: base.RegionSource,
    keys: Key[Array, "b"],
) -> Inputs:
    """The outputs of both detectors on a set of regions; memory, key and reliability of a method are still to be set.

    Args:
      lesson: student and teacher.
      student_params: parameters of the student.
      student_features: its feature maps of the batch.
      inputs: all other arguments, with the teacher's outputs.
      source: the detector that proposes the regions, and which of them; or boxes at random.
      keys: of `image_keys`.
    """
    student, is_own = lesson.student, source.detector == "student"
    owner = student.traits if is_own else lesson.teacher_traits
    if source.stage == "random":
        regions = _random_regions(lesson, inputs.batch, keys, count=source.count)
    elif not is_own:
        regions = _teacher_regions(lesson, inputs, stage=source.stage, keys=keys)
    else:
        regions, _ = student.sample_regions(student_params, student_features, inputs.batch, keys, stage=source.stage)
    regions = lax.stop_gradient(regions)
    # A teacher's label of background is its own number of classes.
    if not is_own and lesson.teacher_columns:
        regions = regions.replace(labels=jnp.where(regions.positive, regions.labels, len(student.classes)))
    predictions = None
    if base.can_predict(student.traits, owner):
        asked = regions if is_own else regions.replace(queries=None)
        predictions = predict_regions(student, student_params, student_features, asked, inputs.batch)
    outputs = DetectorOutputs(features=student_features, predictions=predictions, traits=student.traits)
    return with_teacher(lesson, inputs, outputs, regions.replace(queries=None), owner=owner)


def _random_regions(lesson: Lesson, batch: Batch, keys: Key[Array, "b"], *, count: int) -> Regions:
    """So many boxes drawn in each picture, as regions that are background."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, OF_RANDOM_BOXES)
    boxes = jax.vmap(functools.partial(random_boxes, count=count))(keys, batch.sizes)
    shape = boxes.shape[:2]
    return Regions(
        boxes=boxes,
        labels=jnp.full(shape, len(lesson.student.classes)),
        deltas=jnp.zeros_like(boxes),
        truth=jnp.zeros(shape, int),
        positive=jnp.zeros(shape, bool),
        valid=box_ops.area(boxes) > 0,  # a picture without extent has none
    )


def _teacher_regions(lesson: Lesson, inputs: StepInputs, *, stage: Stage, keys: Key[Array, "b"]) -> Regions:
    """The teacher's own regions, in pixels of the student's canvas; neither IoUs nor target deltas depend on that."""
    teacher, features, batch = cast(Detector, lesson.teacher), inputs.teacher_features, inputs.batch
    assert features is not None
    regions, _ = teacher.sample_regions(inputs.teacher_params, features, batch.as_teacher_sees(), keys, stage=stage)
    return regions if batch.teacher is None else regions.replace(boxes=batch.teacher.to_student(regions.boxes))


def with_teacher(
    lesson: Lesson, inputs: StepInputs, student: DetectorOutputs, regions: Regions, *, owner: Traits
) -> Inputs:
    """The student's outputs on the `regions` of `owner`, and the teacher's on the same regions (proposal sharing).

    A teacher on its own canvas predicts for the boxes there. Its deltas are measured in sides of the boxes, so they
    are the same on both canvases, also where these scale height and width by different factors.
    """
    teacher, features, batch = cast(Detector, lesson.teacher), inputs.teacher_features, inputs.batch
    predictions = None
    if features is not None and base.can_predict(lesson.teacher_traits, owner):
        boxes = regions.boxes if batch.teacher is None else batch.teacher.from_student(regions.boxes)
        predictions = teacher.predict(inputs.teacher_params, features, boxes, batch.as_teacher_sees())
        predictions = lax.stop_gradient(predictions)
        if lesson.teacher_columns and student.predictions is not None:
            predictions = _in_student_classes(lesson, predictions, student.predictions, regions.boxes)
    if features is not None and batch.teacher is not None:
        # Maps that no method needs do not have to fit the student's grid.
        features = teacher_maps(lesson, features, batch) if lesson.taught_from("features") else None
    outputs = DetectorOutputs(
        features=features,
        predictions=predictions,
        traits=lesson.teacher_traits,
        detections=inputs.teacher_detections,
    )
    return Inputs(student=student, teacher=outputs, regions=regions, batch=batch)


def _reliability(lesson: Lesson, config: Any, inputs: Inputs, memory: dict[str, Any]) -> Reliability | None:
    """The reliability of each object by the method that `config.reliability_from` names; None where it names none."""
    source = getattr(config, "reliability_from", "")
    if not source:
        return None
    other = lesson.methods[source]
    return lax.stop_gradient(module_of(other).reliability(other, inputs.replace(memory=memory.get(source))))


def _in_student_classes(
    lesson: Lesson, teacher: Predictions, student: Predictions, boxes: Float[Array, "b r 4"]
) -> Predictions:
    """The teacher's predictions in the student's class order; unchanged where one head is softmax and one sigmoid."""
    assert lesson.teacher is not None
    student_traits, teacher_traits = lesson.student.traits, lesson.teacher.traits
    if (student_traits.background is None) != (teacher_traits.background is None):
        return teacher
    regions = jnp.broadcast_to(boxes[:, :, None], student.deltas.shape)
    deltas = box_codes.converted(
        student.deltas, regions, source=student_traits.box_code, target=teacher_traits.box_code
    )
    background = student_traits.background is not None
    return classes.translated(teacher, student.replace(deltas=deltas), lesson.teacher_columns, background=background)
