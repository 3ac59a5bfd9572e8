"""D-FINE: RT-DETR whose boxes are distributions of their edges (Peng et al. 2024, arXiv 2410.13842)."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn

from jaxkd.detectors import query, query_parts
from jaxkd.detectors.edge_query_losses import Loss, edge_set_losses
from jaxkd.errors import ConfigError
from jaxkd.nets import elan_encoder, hgnet
from jaxkd.nets.edge_decoder import EdgeDecoder, EdgeQueryDecoder
from jaxkd.types import Predictions, Regions, Term

ONLY_WITH = {"decoder.groups": ("decoder.norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config(query_parts.Common):
    """D-FINE; the defaults are those of its size L, but for the backbone, which is that of N and S."""

    backbone: Any = field(default_factory=hgnet.Config)
    """A component of `nets` that gives four levels."""
    neck: Any = field(default_factory=elan_encoder.Config)
    """A component of `nets`: the encoder."""
    decoder: EdgeDecoder = field(default_factory=EdgeDecoder)
    """From the encoder's levels to classes and boxes of queries."""
    loss: Loss = field(default_factory=Loss)
    """The losses."""


def build(config: Config, *, classes: Sequence[str]) -> "DFINE":
    """The detector for these classes; ConfigError where the decoder's heads, points or bins do not fit."""
    detector = DFINE(config, tuple(classes))
    detector.check_decoder()
    bins, sharpest = config.decoder.bins, config.decoder.sharpest
    if bins % 2 or bins < max(4, sharpest - 1):
        raise ConfigError(
            f"decoder.bins is {bins}, with decoder.sharpest {sharpest}; take an even number, 4 or more, for both."
        )
    return detector


@dataclass(frozen=True)
class DFINE(query.QueryDetector):
    """The detector as functions of its parameters; see `detectors.query`."""

    config: Config

    @functools.cached_property
    def decoder(self) -> nn.Module:
        """From the neck's levels to `nets.query_decoder.Outputs`."""
        return EdgeQueryDecoder(self.config.decoder, len(self.classes))

    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """Class, box and edge losses of every layer, and class and box losses of what comes before them.

        Classes are divided by the objects, boxes and edges by the queries of the union set, denoising by objects times
        groups. Names end with the layer's number, "first", "encoder" or "denoising"; "distilled" is what a layer learns
        of the last one's edges, on queries with a truth and on others.
        """
        return edge_set_losses(predictions.layers, regions.queries, self.config.loss, classes=len(self.classes))
