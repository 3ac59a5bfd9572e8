"""Detectors that find something without having been trained, and pictures that do not fill their canvas."""

import jax
import numpy as np
import tiny

from jaxkd import config as configs
from jaxkd.export import base
from jaxkd.loading import build


def subjects():
    """A tiny detector of each kind whose heads answer at random and whose every answer is a detection.

    The one over MobileNetV2 sees padding, and has anchors of its own for each picture.
    """
    recipes = {
        "faster_rcnn": tiny.detector(postprocess={"score_threshold": 0.0}),
        "retinanet": tiny.retinanet(postprocess={"score_threshold": 0.0}),
        "mobilenet": tiny.detector(
            postprocess={"score_threshold": 0.0}, compat={"padding": "seen", "anchor_step": "canvas"}
        ),
    }
    with recipes["mobilenet"].unlocked():
        recipes["mobilenet"].backbone = configs.component("nets.mobilenet", width=0.25)
    return {name: subject(recipe) for name, recipe in recipes.items()}


def subject(recipe):
    """The detector of a recipe, with random parameters."""
    detector = build.detector(recipe, ("round", "square", "long"))
    params = _random(jax.eval_shape(detector.init, jax.random.key(0)))
    sizes = {"buckets": (tiny.SIZE,), "short": (min(tiny.SIZE),), "long": max(tiny.SIZE)}
    return base.subject(build.Loaded(detector, params, recipe, {}, sizes))


def _random(shapes):
    """Parameters that nothing has to be compiled for; small in the heads, so that no answer is sure of itself."""
    rng = np.random.default_rng(0)

    def leaf(path, shape):
        if len(shape.shape) == 1:
            return np.full(shape.shape, path[-1].key in ("scale", "var"), np.float32)
        spread = 0.1 if path[0].key in ("rpn", "head") else np.sqrt(2 / np.prod(shape.shape[:-1]))
        return (spread * rng.normal(size=shape.shape)).astype(np.float32)

    return jax.device_put(jax.tree.map_with_path(leaf, shapes))


def pictures(count):
    """Noise [count H W 3] of several sizes on the canvas of `tiny.SIZE`, and these sizes."""
    height, width = tiny.SIZE
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (count, height, width, 3), np.uint8)
    sizes = np.stack([height - 5 * np.arange(count) % 30, width - 13 * np.arange(count) % 50], -1).astype(np.int32)
    for image, (high, wide) in zip(images, sizes, strict=True):
        image[high:], image[:, wide:] = 0, 0
    return images, sizes
