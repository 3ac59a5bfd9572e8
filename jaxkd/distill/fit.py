"""Whether a method fits two detectors: what it needs of them, what they give, and what to do otherwise."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxkd import distill
from jaxkd.config import module_of
from jaxkd.distill import base
from jaxkd.errors import ConfigError
from jaxkd.phrases import listed
from jaxkd.types import Traits

PREDICTIONS = {"box_predictions", "anchor_predictions", "query_predictions"}
LACKING = {  # of a detector without the capability
    "features": "gives no feature maps",
    "box_predictions": "does not predict for any boxes",
    "anchor_predictions": "has no anchors to predict for",
    "query_predictions": "has no queries to predict for",
    "detections": "gives no detections",
    "head": "does not run its head on other feature maps",
    "box_distributions": "predicts no distributions of a box's sides",
}

OTHER_CANVAS = "they lie on another canvas, data.loader.teacher_view or view in config.teachers"


class Party(NamedTuple):
    """One of the two detectors, as messages call it."""

    who: base.Who
    traits: Traits
    module: str = "..."

    @property
    def name(self) -> str:
        """Such as "teacher (detectors.retinanet)"."""
        return f"{self.who} ({self.module})"


class Gap(NamedTuple):
    """A need of a method that is not met."""

    need: base.Need
    reason: str  # a clause that names the detector


def party(who: base.Who, detector: Any, traits: Traits) -> Party:
    """The detector with the traits that methods see."""
    return Party(who, traits, type(detector).__module__.removeprefix("jaxkd."))


def check(methods: Mapping[str, Any], student: Party, teacher: Party) -> None:
    """Raises ConfigError, with a remedy, where a method needs what one of the two detectors does not give.

    `methods` are Configs by the name that the recipe gives them.
    """
    for name, config in methods.items():
        if found := gaps(config, student, teacher):
            reasons = listed(list(dict.fromkeys(gap.reason for gap in found)))
            module = module_of(config).__name__.removeprefix("jaxkd.")
            remedy = _remedy(config, {gap.need for gap in found}, fitting(student, teacher))
            raise ConfigError(f"distill.{name} ({module}) does not fit, as {reasons}: {remedy}.")


def gaps(config: Any, student: Party, teacher: Party) -> tuple[Gap, ...]:
    """What a method needs of the two detectors and does not get, as far as `Traits` say it."""
    module = module_of(config)
    needs, sources = module.needs(config), module.region_sources(config)
    found = []
    for one, wanted in ((student, needs.student), (teacher, needs.teacher)):
        for need in sorted(wanted):
            if need.startswith("shared_"):
                reason = _incomparable(need, one, student, teacher, sources)
            elif need not in one.traits.capabilities:
                reason = f"the {one.name} {LACKING[need]}"
            else:
                reason = _other_classes(student, teacher) if need == "detections" else ""
            if reason:
                found.append(Gap(need, reason))
    if any(source.detector == "teacher" for source in sources) and not PREDICTIONS & teacher.traits.capabilities:
        found.append(Gap("shared_logits", f"the {teacher.name} gives no regions to predict for"))
    return tuple(found)


def fitting(student: Party, teacher: Party) -> list[str]:
    """The methods in the folder of this file that fit these detectors with their default Config."""
    return [name for name, module in _shipped() if _fits(module, student, teacher)]


def _shipped() -> Iterator[tuple[str, Any]]:
    for found in pkgutil.iter_modules(distill.__path__):
        module = importlib.import_module(f"{distill.__name__}.{found.name}")
        if hasattr(module, "needs"):
            yield found.name, module


def _fits(module: Any, student: Party, teacher: Party) -> bool:
    config = module.Config()
    if gaps(config, student, teacher):
        return False
    try:
        jax.eval_shape(lambda: module.init(config, jax.random.key(0), student.traits, teacher.traits))
    except ConfigError:
        return False
    return True


def _remedy(config: Any, lacking: set[base.Need], others: list[str]) -> str:
    """What would help: the fields that end these needs, where others are left, and the methods that fit."""
    needs, advice = module_of(config).needs(config), []
    if lacking <= set(needs.switches) and lacking < needs.student | needs.teacher:
        advice.append(f"set {listed([field for need, field in needs.switches.items() if need in lacking])} to 0")
    if others:
        advice.append(f"take {listed(others, last='or')}")
    return ", or ".join(advice) or "no shipped method fits these two detectors"


def _incomparable(
    need: base.Need, one: Party, student: Party, teacher: Party, sources: Sequence[base.RegionSource]
) -> str:
    """Why a detector's predictions for shared regions cannot be compared with the other's; "" where they can."""
    if not PREDICTIONS & one.traits.capabilities:
        return f"the {one.name} gives no predictions"
    for source in sources:
        owner, random = student if source.detector == "student" else teacher, source.stage == "random"
        if PREDICTIONS & owner.traits.capabilities and not base.can_predict(one.traits, owner.traits, random=random):
            canvas = f" ({OTHER_CANVAS})" if _on_own_canvas(teacher) else ""
            regions = "boxes at random" if random else f"the {source.detector}'s regions"
            if "query_predictions" in one.traits.capabilities:
                return f"the {one.name} does not predict for as many boxes as the {owner.name} has anchors"
            return f"the {one.name} predicts for its own anchors only, which {regions} are not{canvas}"
    if one is student:  # what follows is said once, of both
        return ""
    columns = student.traits.background, teacher.traits.background
    if need == "shared_logits" and columns[0] != columns[1]:
        return _other_classes(student, teacher) or (
            f"the background column of the {student.name} is {columns[0]}, that of the {teacher.name} {columns[1]} "
            "(None for no background class)"
        )
    return _other_classes(student, teacher)


def _on_own_canvas(teacher: Party) -> bool:
    return bool(teacher.traits.anchors) and teacher.traits.anchors[0] == base.OWN_CANVAS


def _other_classes(student: Party, teacher: Party) -> str:
    """Why labels cannot be compared; "" where they can."""
    classes = student.traits.classes, teacher.traits.classes
    if classes[0] == classes[1]:
        return ""
    return (
        f"the classes of the {student.name} are {classes[0]}, those of the {teacher.name} {classes[1]} (terms on "
        "predictions need the same list in the same order)"
    )
