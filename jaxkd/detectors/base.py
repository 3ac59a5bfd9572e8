"""What a detector offers to the step, to the evaluation and to distillation methods."""

from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Array, Key

from jaxkd.types import Answers, Batch, Detections, Features, Regions, Term, Traits

Params = dict[str, Any]
Stage = Literal["sampled", "proposals"]


@runtime_checkable
class Detector(Protocol):
    """A detector as functions of its parameters; it holds no arrays itself.

    A module in this folder has a `Config` dataclass and `build(config, classes=...)`, which returns one of these.
    """

    classes: tuple[str, ...]

    @property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        ...

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, float32."""
        ...

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` is to be trained; frozen stages and stored statistics are not."""
        ...

    def features(self, params: Params, batch: Batch) -> Features:
        """Feature maps of the batch's pictures, normalised as this detector wants them."""
        ...

    def regions(
        self, params: Params, features: Features, batch: Batch, keys: Key[Array, "b"], *, stage: Stage = "sampled"
    ) -> tuple[Regions, dict[str, Term]]:
        """The regions to learn from, and the terms of finding them.

        `stage` "sampled" gives what the detector's own loss uses; "proposals" what it finds best, unsampled.
        """
        ...

    def answer(self, params: Params, features: Features, regions: Regions, batch: Batch) -> Answers:
        """The head's answers about any regions, its own or another detector's."""
        ...

    def losses(self, answers: Answers, regions: Regions) -> dict[str, Term]:
        """The detection terms of the answers."""
        ...

    def detect(self, params: Params, batch: Batch) -> Detections:
        """What the detector finds in the pictures."""
        ...
