"""What detectors with queries have in common: feature extractor, decoder, training, and detections without suppression.

The nets see the whole canvas, also where a picture does not fill it, and boxes are shares of its sides. Own queries are
selected and refined in `sample_regions` and `predict_queries`; about any other boxes, `predict` begins with the cells
at their centres.
"""

import abc
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxkd.detectors import dense
from jaxkd.detectors.base import Moments, Params, Stage
from jaxkd.detectors.feature_extractor import FeatureExtractor, apply, apply_in_training
from jaxkd.detectors.query_losses import Denoised, Started, Truth, truth_of
from jaxkd.errors import ConfigError
from jaxkd.nets.edge_decoder import CONSTANTS
from jaxkd.nets.norm import BATCH
from jaxkd.nets.query_decoder import Layers, Outputs, best_pairs
from jaxkd.ops import boxes as box_ops
from jaxkd.ops import denoising
from jaxkd.ops.match import match
from jaxkd.types import Batch, BoxCode, Detections, Features, Predictions, Regions, Term, Traits

DECODER_KEY, DENOISING_KEY = 2, 3  # of a detector's initial parameters; backbone and neck have 0 and 1
POSITIVE_IOU = 0.5  # of a query's box with an object, from which methods count it as a positive region
SHORTEST = 1e-3  # side of a given box in shares of the canvas's
EMBEDDING = "embedding"  # of the classes, for denoising queries


@dataclass(frozen=True)
class QueryDetector(abc.ABC):
    """The functions of `detectors.base.Detector` and `HasQueries`, but for the losses."""

    config: Any
    classes: tuple[str, ...]

    @property
    @abc.abstractmethod
    def decoder(self) -> nn.Module:
        """From the neck's levels to `nets.query_decoder.Outputs`."""

    @abc.abstractmethod
    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """The detection losses of the predictions for its own queries."""

    @functools.cached_property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        extractor = self.feature_extractor
        return Traits(
            classes=self.classes,
            capabilities=frozenset({"features", "detections", "query_predictions"}),
            strides=extractor.strides,
            channels=extractor.channels,
            backbone_strides=extractor.backbone_strides,
            backbone_channels=extractor.backbone_channels,
            box_code=BoxCode(),
            background=None,
            anchors=None,
        )

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, float32."""
        return _init(self, key)

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` is trained; frozen stages, stored statistics and constants of bins are not."""
        return path[-1] not in CONSTANTS and self.feature_extractor.trainable(path)

    def features(self, params: Params, batch: Batch) -> Features:
        """Feature maps of the batch's canvases, which are normalised first."""
        return self.feature_extractor.features(params, batch)

    def training_features(self, params: Params, batch: Batch) -> tuple[Features, Moments]:
        """As `features`, with batch norms that take the statistics of the batch; and what these have seen.

        Raises ConfigError for a canvas whose sides are no multiples of the largest stride, and for more objects than
        queries.
        """
        self._check_batch(batch)
        features, moments = self.feature_extractor.training_features(params, batch)
        if self.config.decoder.norm in BATCH:
            # The levels are projected once more where they are used, which XLA computes once.
            _, moments["decoder"] = self._projected_in_training(params, features)
        return features, moments

    def sample_regions(
        self, params: Params, features: Features, batch: Batch, keys: Key[Array, "b"], *, stage: Stage = "sampled"
    ) -> tuple[Regions, dict[str, Term]]:
        """The boxes of the selected cells with the truth that they overlap, for methods, and no losses.

        `Regions.queries` is what the decoder starts from (`query_losses.Started`), at the stage "sampled" with
        denoising queries in front. Losses are matched anew, see `losses`.
        """
        queries = apply(self.decoder, params["decoder"], self._levels(params, features), method="select")
        truth, selected = truth_of(batch), Outputs(queries.logits, queries.boxes)
        content, boxes = lax.stop_gradient((queries.content, queries.boxes))
        started = Started(content, boxes, seen=None, selected=selected, truth=truth, denoised=None)
        if stage == "sampled" and self.config.denoising.queries:
            started = self._with_noise(params, started, keys)
        corners = jax.vmap(box_ops.clip)(box_ops.corners_of(boxes) * box_ops.sides_of(batch.images), batch.sizes)
        return self._regions(corners, batch).replace(queries=started), {}

    def predict_queries(self, params: Params, features: Features, regions: Regions, batch: Batch) -> Predictions:
        """Predictions for the selected queries, with all that the decoder says in `Predictions.layers`."""
        started: Started = regions.queries
        layers = self._refined(params, features, started.content, started.boxes, started.seen)
        return self._predictions(layers, regions.boxes, batch)

    def predict(self, params: Params, features: Features, boxes: Float[Array, "b r 4"], batch: Batch) -> Predictions:
        """Class logits [b r k] and deltas [b r 1 4] of any boxes, each as a query that begins with a cell's content.

        The boxes see each other, as the detector's own queries do, but for those without an area.
        """
        shares = box_ops.centred(boxes) / box_ops.sides_of(batch.images)
        shares = jnp.concatenate((shares[..., :2], jnp.maximum(shares[..., 2:], SHORTEST)), -1)
        seen = (box_ops.area(boxes) > 0)[:, None] | jnp.eye(boxes.shape[1], dtype=bool)
        levels = self._levels(params, features)
        content = apply(self.decoder, params["decoder"], levels, shares, method="contents_at")
        layers = self._refined(params, features, lax.stop_gradient(content), shares, seen)
        return self._predictions(layers, boxes, batch)

    def detect(self, params: Params, batch: Batch) -> Detections:
        """The pairs of a query and a class with the greatest scores, clipped to the picture; nothing is suppressed."""
        outputs = apply(self.decoder, params["decoder"], self.features(params, batch).neck)
        corners = box_ops.corners_of(outputs.boxes) * box_ops.sides_of(batch.images)
        boxes = jax.vmap(box_ops.clip)(corners, batch.sizes)
        inside = box_ops.area(boxes) > 0
        logits = jnp.where(inside[..., None], outputs.logits, -jnp.inf)  # the score is 0 then
        settings = self.config.postprocess
        boxes, scores, labels = best_pairs(outputs._replace(logits=logits, boxes=boxes), limit=settings.max_detections)
        valid = scores > settings.score_threshold
        return Detections(
            boxes=jnp.where(valid[..., None], boxes, 0.0),
            scores=jnp.where(valid, scores, 0.0),
            labels=labels,
            valid=valid,
        )

    def _check_batch(self, batch: Batch) -> None:
        (height, width), strides = batch.images.shape[1:3], self.feature_extractor.strides
        stride, most = max(strides), batch.boxes.shape[1]
        cells = sum((height // step) * (width // step) for step in strides)
        if most > (queries := min(self.config.decoder.queries, cells)):
            raise ConfigError(
                f"data.loader.max_objects is {most}, and on a canvas of {height}x{width} this student has {queries} "
                "queries, one for each object at most; lower max_objects, or raise student.decoder.queries or the "
                "sizes in data.loader.buckets."
            )
        if height % stride or width % stride:
            raise ConfigError(
                f"A canvas of {height}x{width} is no whole number of cells of {stride} pixels, which a student with "
                f"queries wants; take multiples of {stride} in data.loader.buckets."
            )

    def _levels(self, params: Params, features: Features) -> tuple[Float[Array, "b _ _ d"], ...]:
        """The neck's levels at the decoder's width."""
        if features.training and self.config.decoder.norm in BATCH:
            return self._projected_in_training(params, features)[0]
        return apply(self.decoder, params["decoder"], features.neck, method="project")

    def _projected_in_training(
        self, params: Params, features: Features
    ) -> tuple[tuple[Float[Array, "b _ _ d"], ...], Moments]:
        return apply_in_training(self.decoder, params["decoder"], features.neck, method="project")

    def _refined(
        self,
        params: Params,
        features: Features,
        content: Float[Array, "b n d"],
        boxes: Float[Array, "b n 4"],
        seen: Bool[Array, "b n n"] | None,
    ) -> Layers:
        levels = self._levels(params, features)
        return apply(self.decoder, params["decoder"], levels, content, boxes, seen, method="refine")

    def _with_noise(self, params: Params, started: Started, keys: Key[Array, "b"]) -> Started:
        """With denoising queries in front."""
        settings, truth = self.config.denoising, started.truth
        groups = denoising.group_count(truth.valid.shape[1], queries=settings.queries)

        def of_picture(key: Array, truth: Truth) -> denoising.Noised:
            return denoising.noised(
                key,
                truth.boxes,
                truth.labels,
                truth.valid,
                classes=len(self.classes),
                groups=groups,
                label_noise=settings.label_noise,
                box_noise=settings.box_noise,
            )

        noised = jax.vmap(of_picture)(keys, truth)
        queries = started.boxes.shape[1]
        return started._replace(
            content=jnp.concatenate((params["denoising"][EMBEDDING][noised.labels], started.content), 1),
            boxes=jnp.concatenate((noised.boxes, started.boxes), 1),
            seen=jax.vmap(lambda valid: denoising.seen(valid, groups=groups, queries=queries))(noised.valid),
            denoised=Denoised(noised.truth, noised.valid),
        )

    def _regions(self, boxes: Float[Array, "b q 4"], batch: Batch) -> Regions:
        """The boxes as regions: positive where they overlap an object well enough or best, else background."""

        def of_picture(boxes: Array, batch: Batch) -> Regions:
            matches = match(
                boxes,
                batch.boxes,
                valid=batch.valid,
                crowd=batch.crowd,
                positive=POSITIVE_IOU,
                negative=POSITIVE_IOU,
                low_quality=True,
            )
            deltas = box_ops.encode(batch.boxes[matches.truth], boxes)
            return dense.targets(batch, matches, boxes=boxes, deltas=deltas, background=len(self.classes))

        return jax.vmap(of_picture)(boxes, batch)

    def _predictions(self, layers: Layers, regions: Float[Array, "b r 4"], batch: Batch) -> Predictions:
        """What the last layer says of the regions, which are the last queries; sides count as a pixel at least."""
        logits, boxes = (said[-1][:, -regions.shape[1] :] for said in (layers.logits, layers.boxes))
        canvas = box_ops.sides_of(batch.images)
        boxes, regions = (
            box_ops.corners_of(jnp.concatenate((centred[..., :2], jnp.maximum(centred[..., 2:], 1.0)), -1))
            for centred in (boxes * canvas, box_ops.centred(regions))
        )
        return Predictions(logits=logits, deltas=box_ops.encode(boxes, regions)[:, :, None], layers=layers)

    @functools.cached_property
    def feature_extractor(self) -> FeatureExtractor:
        """Backbone and neck."""
        config = self.config
        return FeatureExtractor(
            backbone=config.backbone,
            neck=config.neck,
            dtype=config.dtype,
            remat=config.remat,
            frozen_stages=config.frozen_stages,
            pixel_mean=config.pixels.mean,
            pixel_std=config.pixels.std,
            padding="canvas",
        )

    def check_decoder(self) -> None:
        """Raises ConfigError where the decoder's heads or points do not fit."""
        decoder, levels = self.config.decoder, len(self.feature_extractor.strides)
        if decoder.width % decoder.heads:
            raise ConfigError(
                f"The decoder's width {decoder.width} is no multiple of its {decoder.heads} heads; take one that is."
            )
        if len(decoder.points) != levels:
            raise ConfigError(
                f"decoder.points is {decoder.points}, and the neck has {levels} levels; give one number for each."
            )


@functools.partial(jax.jit, static_argnums=0)
def _init(detector: QueryDetector, key: Key[Array, ""]) -> Params:
    """Random parameters; equal detectors share the compiled program."""
    extractor = detector.feature_extractor
    params, side = extractor.init(key), 2 * max(extractor.strides)
    levels: Sequence[Array] = [
        jnp.zeros((1, side // stride, side // stride, channels))
        for stride, channels in zip(extractor.strides, extractor.channels, strict=True)
    ]
    decoder = detector.decoder.init(jax.random.fold_in(key, DECODER_KEY), tuple(levels))
    params |= {"decoder": decoder["params"]}
    if detector.config.denoising.queries:
        shape = len(detector.classes), detector.config.decoder.width
        embedding = jax.random.normal(jax.random.fold_in(key, DENOISING_KEY), shape)
        params |= {"denoising": {EMBEDDING: embedding}}
    return params
