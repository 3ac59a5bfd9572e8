"""The protocol of a detector, as the training step, the evaluation and distillation methods use it.

`Traits.capabilities` says what a detector gives, and so which functions it has:

* "features": `features`;
* "box_predictions", "anchor_predictions" or "query_predictions": `sample_regions` and `predict`, of its own feature
  maps;
* "detections": `detect`.

A student has all functions of `Detector`. A teacher has those of `Teacher` and of its capabilities; a method says in
`needs` which capabilities it uses (see `distill.base`).
"""

from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key

from jaxkd.types import Batch, Detections, Features, Predictions, Regions, Term, Traits

Params = dict[str, Any]
Moments = dict[str, Any]  # of batch norms, as `nets.norm.running` takes them; {} where there are none
Stage = Literal["sampled", "proposals"]


@runtime_checkable
class Teacher(Protocol):
    """What every detector has, whatever it gives."""

    classes: tuple[str, ...]

    @property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        ...

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, float32."""
        ...


@runtime_checkable
class Detector(Teacher, Protocol):
    """A detector as functions of its parameters; it holds no arrays itself.

    A module in this folder has a `Config` dataclass and `build(config, classes=...)`, which returns one of these.
    """

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` is to be trained; frozen stages and stored statistics are not."""
        ...

    def features(self, params: Params, batch: Batch) -> Features:
        """Feature maps of the batch's pictures, which it normalises itself."""
        ...

    def training_features(self, params: Params, batch: Batch) -> tuple[Features, Moments]:
        """As `features`, in training: batch norms take the statistics of the batch; and what these have seen."""
        ...

    def sample_regions(
        self, params: Params, features: Features, batch: Batch, keys: Key[Array, "b"], *, stage: Stage = "sampled"
    ) -> tuple[Regions, dict[str, Term]]:
        """Regions with their targets, and the losses of proposing them.

        `stage` "sampled" gives the regions of the detector's own loss; "proposals" the best proposals, not sampled.
        """
        ...

    def predict(self, params: Params, features: Features, boxes: Float[Array, "b r 4"], batch: Batch) -> Predictions:
        """The head's predictions for any boxes, this detector's proposals or another's."""
        ...

    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """The detection losses of the predictions."""
        ...

    def detect(self, params: Params, batch: Batch) -> Detections:
        """The detections in the pictures, after suppression."""
        ...


@runtime_checkable
class HasQueries(Protocol):
    """A detector whose regions are more than boxes: queries with contents of their own."""

    def predict_queries(self, params: Params, features: Features, regions: Regions, batch: Batch) -> Predictions:
        """The head's predictions for the queries of `Regions.queries`, as its losses want them."""
        ...


def predict_regions(
    detector: Detector, params: Params, features: Features, regions: Regions, batch: Batch
) -> Predictions:
    """A detector's predictions for regions: for its own queries, or for boxes where there are none."""
    if isinstance(detector, HasQueries) and regions.queries is not None:
        return detector.predict_queries(params, features, regions, batch)
    return detector.predict(params, features, regions.boxes, batch)
