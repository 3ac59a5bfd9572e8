"""Norms with stored statistics folded into the convolutions before them.

Such a norm multiplies each channel by a number and adds another. The factors go into the convolution's kernel, and what
is left is a bias.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.nets.norm import EPS, STORED

Tree = Mapping[str, Any]  # parameters, or their shapes, by name; nested

log = logging.getLogger(__name__)


def folded(loaded: build.Loaded) -> build.Loaded:
    """The same detector with norm "bias" in place of those with stored statistics (`nets.norm.STORED`).

    In float32 its results differ by rounding alone. Other norms, such as group norms, are of each picture and stay; a
    detector that has no norm to fold is returned as it is, with a warning.

    Raises ConfigError where a part of the detector has no norm "bias", or does not name a norm after its convolution
    ("bn1" and "conv1", "project_norm" and "project_conv" or "project"); either may be so of a net outside jaxkd.
    """
    config = loaded.config.copy_and_resolve_references()
    params = jax.device_get(loaded.params)
    if not _set_biases(config) or not _has_statistics(params):
        log.warning("%s has no norm with stored statistics, so nothing is folded.", loaded.config.name)
        return loaded
    detector = build.detector(config, loaded.detector.classes)
    shapes = build.param_shapes(detector)
    new = {
        name: _without_statistics(part, shapes[name], eps=config[name].get("eps", EPS) if name in config else EPS)
        for name, part in params.items()
    }
    return dataclasses.replace(loaded, detector=detector, config=config, params=jax.tree.map(jax.numpy.asarray, new))


def _set_biases(config: configs.Recipe) -> bool:
    """Sets the norms with stored statistics in a detector's ConfigDict to "bias", and says whether there were any."""
    found = False
    for name, value in config.items():
        if name == "norm" and value in STORED:
            config.norm, found = "bias", True
        elif hasattr(value, "items"):
            found |= _set_biases(value)
    return found


def _has_statistics(params: Tree) -> bool:
    return "mean" in params or any(_has_statistics(part) for part in params.values() if isinstance(part, Mapping))


def _without_statistics(params: Tree, shapes: Tree, *, eps: float) -> dict[str, Any]:
    """The parameters of a net or of a part of one, for the same one of norm "bias", whose `shapes` are given.

    A bias is where those shapes have one: in the norm's place, or in the convolution.
    """
    new = {
        name: _without_statistics(part, shapes.get(name, {}), eps=eps) if isinstance(part, Mapping) else part
        for name, part in params.items()
    }
    for name, norm in params.items():
        if isinstance(norm, Mapping) and "mean" in norm:
            conv = _conv_of(name, params)
            factor = norm["scale"] / np.sqrt(norm["var"].astype(np.float64) + eps)
            new[conv] = {leaf: np.float32(array * factor) for leaf, array in params[conv].items()}
            bias = {"bias": np.float32(norm["bias"] - norm["mean"] * factor)}
            del new[name]
            if name in shapes:
                new[name] = bias
            else:
                new[conv] |= bias
    return new


def _conv_of(norm: str, siblings: Tree) -> str:
    """The name of the convolution before the norm of this name."""
    names = {norm.replace("bn", "conv"), norm.replace("norm", "conv"), norm.removesuffix("_norm")} - {norm}
    convs = sorted(name for name in names if "kernel" in siblings.get(name, {}))
    if len(convs) != 1:
        raise ConfigError(
            f"The norm {norm} cannot be folded: beside it there is no convolution {' or '.join(sorted(names))}; export "
            "the detector instead, which folds norms wherever they are."
        )
    return convs[0]
