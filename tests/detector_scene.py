"""Four noisy pictures, and all that a detector says about them; a teacher that is not trained says less."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import tiny
from jax import numpy as jnp

from jaxkd.detectors.base import Detector, predict_regions
from jaxkd.loading import build
from jaxkd.types import Batch

CLASSES = ("circle", "square", "triangle")
SIZES = np.array([[64, 96], [50, 70], [33, 96], [61, 45]], np.int32)
KEYS = jax.vmap(jax.random.key)(jnp.arange(4))


def batch_in(bucket: tuple[int, int], *, fill: int = 0) -> Batch:
    """Four pictures of noise, the last one without an object; the same ones whatever the bucket."""
    draw = np.random.default_rng(0)
    images = np.full((4, *bucket, 3), fill, np.uint8)
    boxes, valid = np.zeros((4, 6, 4), np.float32), np.zeros((4, 6), bool)
    for row, (height, width) in enumerate(SIZES):
        images[row, :height, :width] = draw.integers(0, 256, (height, width, 3))
        for place in range(3 - row):
            side = draw.uniform(14, 30)
            corner = draw.uniform(0, [width - side, height - side])
            boxes[row, place] = [*corner, *(corner + side)]
            valid[row, place] = True
    return Batch(
        images=images,
        sizes=SIZES,
        boxes=boxes,
        labels=np.where(valid, draw.integers(0, 3, valid.shape), 0).astype(np.int32),
        valid=valid,
        crowd=np.zeros_like(valid),
        ids=np.arange(4, dtype=np.int32),
        scales=np.ones((4, 2), np.float32),
        real=np.ones(4, bool),
    )


def everything(detector):
    """All that a detector says about a batch, as one compiled function."""

    def outputs(params, batch, keys):
        del keys
        return {"features": detector.features(params, batch), "detections": detector.detect(params, batch)}

    def look(params, batch, keys):
        features = detector.features(params, batch)
        regions, terms = detector.sample_regions(params, features, batch, keys)
        best, _ = detector.sample_regions(params, features, batch, keys, stage="proposals")
        predictions = predict_regions(detector, params, features, regions, batch)
        return {
            "features": features,
            "regions": regions,
            "best": best,
            "predictions": predictions,
            "terms": terms | detector.losses(predictions, regions),
            "detections": detector.detect(params, batch),
        }

    return jax.jit(look if isinstance(detector, Detector) else outputs)


class Case(NamedTuple):
    """A detector, its parameters, a compiled look at a batch, and what it saw in the bucket (64, 96)."""

    detector: Any
    params: Any
    look: Callable
    seen: Any


RECIPES = {
    "faster_rcnn": tiny.detector,
    "retinanet": tiny.retinanet,
    "gfl": tiny.gfl,
    "fcos": tiny.fcos,
    "rt_detr": tiny.rt_detr,
    "d_fine": tiny.d_fine,
}


@functools.cache
def is_trained(kind: str) -> bool:
    """Whether detectors of this kind have all that a student has."""
    return isinstance(build.detector(RECIPES[kind](), CLASSES), Detector)


@functools.cache
def case(kind: str) -> Case:
    """The tiny detector of this kind, made once a process."""
    detector = build.detector(RECIPES[kind](), CLASSES)
    params = told_apart(detector.init(jax.random.key(0)))
    look = everything(detector)
    return Case(detector, params, look, jax.device_get(look(params, batch_in((64, 96)), KEYS)))


def told_apart(params):
    """The parameters with heads strong enough that no two scores are nearly equal, as after training."""
    if "decoder" in params:
        return params | {"decoder": stirred(params["decoder"])}
    if "rpn" in params:
        strong = {"rpn": {"conv": 10.0, "logits": 20.0, "deltas": 1.0}, "head": {"logits": 30.0, "deltas": 100.0}}
    else:
        strong = {"head": {"logits": 60.0}}
    out = dict(params)
    for part, factors in strong.items():
        out[part] = dict(params[part])
        for name, factor in factors.items():
            out[part][name] = params[part][name] | {"kernel": factor * params[part][name]["kernel"]}
    if "quality" in params["head"]:  # distances, of which half are 0 before training
        out["head"]["deltas"] = params["head"]["deltas"] | {"bias": jnp.ones(4)}
    return out


def stirred(params, seed=0):
    """A decoder's parameters with random numbers in place of kernels that are zeros, and of the biases of classes."""
    out = {}
    for index, (name, part) in enumerate(sorted(params.items())):
        if isinstance(part, dict):
            out[name] = stirred(part, seed * 31 + index + 1)
        else:
            drawn = 0.3 * jax.random.normal(jax.random.key(seed * 31 + index), part.shape)
            is_head = name == "bias" and np.allclose(part, part[0]) and part[0] < -4
            out[name] = drawn if is_head or (name == "kernel" and not np.any(part)) else part
    return out


def sees_canvas(kind: str) -> bool:
    """Whether the nets see all of the canvas, so that what they say depends on its size."""
    return build.detector(RECIPES[kind](), CLASSES).feature_extractor.padding == "canvas"


def assert_equal(one, other, atol=1e-4):
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4, err_msg=jax.tree_util.keystr(path))
