"""Detectors that find something without having been trained, and pictures that do not fill their canvas."""

import jax
import numpy as np
import tiny

from jaxkd import config as configs
from jaxkd.export import base
from jaxkd.train import build


def subjects():
    """A tiny detector of each kind whose heads answer at random and whose every answer is a detection.

    The one over MobileNetV2 sees padding, and has anchors of its own for each picture.
    """
    made = {}
    recipes = {
        "faster_rcnn": tiny.detector(score_threshold=0.0),
        "retinanet": tiny.retinanet(score_threshold=0.0),
        "mobilenet": tiny.detector(score_threshold=0.0, padding="seen", anchor_step="canvas"),
    }
    with recipes["mobilenet"].unlocked():
        recipes["mobilenet"].backbone = configs.component("nets.mobilenet", width=0.25)
    for name, recipe in recipes.items():
        detector = build.detector(recipe, ("round", "square", "long"))
        params = dict(detector.init(jax.random.key(0)))
        params |= {part: _noisy(params[part]) for part in ("rpn", "head") if part in params}
        sizes = {"buckets": (tiny.SIZE,), "short": (min(tiny.SIZE),), "long": max(tiny.SIZE)}
        made[name] = base.subject(build.Loaded(detector, params, recipe, {}, sizes))
    return made


def _noisy(params):
    """Kernels with noise, small enough for no answer to be sure of itself."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32) * (x.ndim > 1), params)


def pictures(count):
    """Noise [count H W 3] of several sizes on the canvas of `tiny.SIZE`, and these sizes."""
    height, width = tiny.SIZE
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (count, height, width, 3), np.uint8)
    sizes = np.stack([height - 5 * np.arange(count) % 30, width - 13 * np.arange(count) % 50], -1).astype(np.int32)
    for image, (high, wide) in zip(images, sizes, strict=True):
        image[high:], image[:, wide:] = 0, 0
    return images, sizes
