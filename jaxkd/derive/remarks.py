"""Remarks on a recipe's settings that do not suit its data."""

from collections.abc import Sequence

from jaxkd import config as configs
from jaxkd.data import loader, survey
from jaxkd.data.base import Record, Source
from jaxkd.derive import anchors, schedule, sizes
from jaxkd.derive.base import boxes_of_objects, detector_of
from jaxkd.detectors import parts

FITTED, BETTER = 0.8, 0.1  # share of objects with an anchor that is enough, and what is worth another size
HIDDEN, LOST = 0.25, 0.15  # share of objects too small to be seen, and how many of these a larger picture would show
FEW = 1 / 3  # of the epochs that are usual
TRIAL = 100  # steps up to which a run is a trial of the recipe


def remarks(train: Source, recipe: configs.Recipe) -> tuple[str, ...]:
    """Remarks on anchors, sizes and length of a recipe with these training pictures, one sentence each.

    Raises DataError where there is no object, and what the parts of the recipe raise.
    """
    loader_config: loader.Config = configs.build(recipe.data.loader)
    student = configs.build(recipe.student)
    objects = anchors.objects_in(train.records, loader_config)
    found = [_small(train.records, objects, loader_config), _short(len(train.records), recipe)]
    if isinstance(getattr(student, "anchors", None), parts.Anchors):
        strides = detector_of(recipe.student, train.classes).traits.strides
        found.insert(0, _unfit(objects, student.anchors, strides=strides))
    return tuple(filter(None, found))


def _unfit(objects: anchors.Objects, config: parts.Anchors, *, strides: Sequence[int]) -> str:
    """What is to be said of the anchors, or ""."""
    fitted = anchors.recall(objects, anchors.grid_in(config, strides=strides), iou=0.5)
    other = anchors.ladder(objects, strides=strides, octaves=config.octaves).value
    better = anchors.recall(objects, anchors.grid_of(other, strides=strides, octaves=config.octaves), iou=0.5)
    if fitted >= FITTED or better - fitted < BETTER:
        return ""
    return (
        f"Only {100 * fitted:.0f} % of the training objects have an anchor of IoU 0.5; with "
        f"student.anchors.sizes={other} it would be {100 * better:.0f} %."
    )


def _small(records: Sequence[Record], objects: anchors.Objects, loader_config: loader.Config) -> str:
    """What is to be said of the pictures' size, or ""."""
    limit = survey.HARD_SIDE**2
    after, before = (
        float(((boxes[:, 2:] - boxes[:, :2]).prod(-1) < limit).mean())
        for boxes in (objects.boxes, boxes_of_objects(records))
    )
    if after < HIDDEN or after - before < LOST:
        return ""
    short, long = sizes.working_size(records, wanted=survey.HARD_SIDE, pixels=2**62).value
    if short <= max(loader_config.short):
        return ""
    return (
        f"{100 * after:.0f} % of the training objects are below 16x16 pixels after the resize, and "
        f"{100 * before:.0f} % before; data.loader.short=({short},) with long={long} and canvases of that size would "
        "show more."
    )


def _short(pictures: int, recipe: configs.Recipe) -> str:
    """What is to be said of the length of the run, or ""; a run that starts from finished weights may be short."""
    train = recipe.train
    steps = schedule.length(train, pictures)
    epochs, usual = steps * train.batch / pictures, schedule.epochs(pictures, batch=train.batch).value
    if recipe.initial or steps < TRIAL or epochs >= FEW * usual:
        return ""
    return (
        f"The run is {epochs:.1f} epochs of {pictures} pictures long, and {usual} are usual for so many: "
        f"train.epochs={usual} with train.steps=0."
    )
