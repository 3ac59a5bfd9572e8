"""What detectors with anchors of several shapes have in common: the anchors and their matches."""

from collections.abc import Sequence
from operator import attrgetter

from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool

from jaxkd.detectors.pyramid import PyramidDetector
from jaxkd.errors import ConfigError
from jaxkd.ops.anchors import Anchors, inside
from jaxkd.ops.match import Matches, match
from jaxkd.types import Batch, Features


class AnchorBased(PyramidDetector):
    """A detector with anchors on every level."""

    def check(self, *thresholds: tuple[str, str]) -> None:
        """Raises ConfigError where the anchors or heads do not fit the neck's levels, or thresholds are out of order.

        Each pair of `thresholds` names two fields: the IoU below which a box is background, and that from which it is
        an object.
        """
        sizes, levels = len(self.config.anchors.sizes), len(self.feature_extractor.strides)
        if sizes != levels:
            raise ConfigError(f"anchors.sizes has {sizes} entries, the pyramid {levels} levels; give one size a level.")
        self.check_one_width()
        if not self.config.anchors.ratios:
            raise ConfigError("anchors.ratios is empty; give a ratio at least.")
        for negative, positive in thresholds:
            low, high = attrgetter(negative, positive)(self.config)
            if low > high:
                raise ConfigError(
                    f"{negative}={low} is above {positive}={high}; a box would be background and an object."
                )

    @property
    def neck_channels(self) -> int:
        """Width of the neck's levels, one for all; see `check`."""
        return self.feature_extractor.channels[0]

    def anchors(self, features: Features, batch: Batch, *, sizes: Sequence[Sequence[float]]) -> Anchors:
        """The anchors of every level, of these sizes each."""
        config, rounded = self.config.anchors, self.config.compat.anchor_rounded
        return self.spaced_anchors(
            features, batch, sizes=sizes, ratios=config.ratios, offset=config.offset, rounded=rounded
        )

    def match_anchors(
        self, anchors: Anchors, batch: Batch, *, positive: float, negative: float
    ) -> tuple[Matches, Bool[Array, "a"]]:
        """The matches of one picture's anchors with its truth, and a mask of the anchors within its extent.

        `anchors` and `batch` are without their leading axes.
        """
        within = inside(anchors, self.extents(batch))
        matches = match(
            jnp.where(within[:, None], anchors.boxes, 0.0),  # an anchor in the padding is no truth's best match
            batch.boxes,
            valid=batch.valid,
            crowd=batch.crowd,
            positive=positive,
            negative=negative,
            low_quality=True,
        )
        return matches, within
