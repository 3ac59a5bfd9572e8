"""Derived settings as lines for a screen: those that users look for first, each with its value and its reason."""

from collections.abc import Iterator, Sequence

from jaxkd.derive.base import Reason

SHOWN = (
    "data.loader.short", "data.loader.buckets", "data.loader.augment", "student", "student.backbone", "initial",
    "student.anchors", "train.batch", "train.epochs", "train.steps", "optimizer.learning_rate", "distill", "teacher",
    "data.unlabelled", "teacher:student.backbone", "teacher:train.epochs",
)  # fmt: skip


def lines(reasons: Sequence[Reason]) -> Iterator[str]:
    """A line for each."""
    for reason in reasons:
        if reason.setting in SHOWN and (reason.value or reason.setting == "initial"):
            in_words = not reason.value or hasattr(reason.value, "items")  # a part is named by its words
            value = "" if in_words else f" {_text(reason.value)}"
            yield f"- {reason.setting}{value}: {reason.words}."


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
