"""RT-DETR and RT-DETRv2: a hybrid encoder, and queries that a decoder refines (Zhao et al. 2024; Lv et al. 2024)."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn

from jaxkd.detectors import query, query_parts
from jaxkd.detectors.query_losses import Loss, set_losses
from jaxkd.nets import hybrid_encoder, resnet_d
from jaxkd.nets.query_decoder import QueryDecoder
from jaxkd.nets.query_layer import Decoder
from jaxkd.types import Predictions, Regions, Term

ONLY_WITH = {"decoder.groups": ("decoder.norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config(query_parts.Common):
    """RT-DETR; the defaults are those with a ResNet-50."""

    backbone: Any = field(default_factory=resnet_d.Config)
    """A component of `nets` that gives four levels."""
    neck: Any = field(default_factory=hybrid_encoder.Config)
    """A component of `nets`: the encoder."""
    decoder: Decoder = field(default_factory=Decoder)
    """From the encoder's levels to classes and boxes of queries."""
    loss: Loss = field(default_factory=Loss)
    """The losses."""


def build(config: Config, *, classes: Sequence[str]) -> "RTDETR":
    """The detector for these classes; ConfigError where the decoder's heads or points do not fit."""
    detector = RTDETR(config, tuple(classes))
    detector.check_decoder()
    return detector


@dataclass(frozen=True)
class RTDETR(query.QueryDetector):
    """The detector as functions of its parameters; see `detectors.query`."""

    config: Config

    @functools.cached_property
    def decoder(self) -> nn.Module:
        """From the neck's levels to `nets.query_decoder.Outputs`."""
        return QueryDecoder(self.config.decoder, len(self.classes))

    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """Class and box losses of every layer, of the encoder's choice and of the denoising queries.

        All are divided by the objects, those of denoising by objects times groups. Names end with the layer's number,
        "encoder" or "denoising".
        """
        return set_losses(predictions.layers, regions.queries, self.config.loss, classes=len(self.classes))
