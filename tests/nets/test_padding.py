"""Padding a picture to a larger bucket changes nothing in it."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.nets import (
    csp,
    elan_encoder,
    fpn,
    hgnet,
    hybrid_encoder,
    light_pan,
    mobilenet,
    mobilenetv4,
    resnet,
    resnet_d,
    sum_pan,
)

SIZES = np.array([[50, 37], [33, 61]], np.int32)
PICTURES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)


def padded(high, wide):
    out = np.full((2, high, wide, 3), 7.0, np.float32)  # the padding may hold anything
    for picture, (h, w) in enumerate(SIZES):
        out[picture, :h, :w] = PICTURES[picture, :h, :w]
    return out


def random_like(shapes):
    rng = np.random.default_rng(1)

    def leaf(path, struct):
        name, fan = path[-1].key, max(1, np.prod(struct.shape[:-1]))
        value = rng.normal(size=struct.shape).astype(np.float32)
        return value / np.sqrt(fan) if name == "kernel" else 0.1 * np.abs(value) + (name in ("scale", "var"))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def assert_same_inside(levels, larger, strides):
    for level, other, stride in zip(levels, larger, strides, strict=True):
        assert level.shape[1:3] == (-(-64 // stride), -(-64 // stride))
        scale = float(jnp.abs(level).max())
        for picture, (h, w) in enumerate(-(-SIZES // stride)):
            inside = np.asarray(level[picture, :h, :w])
            assert np.abs(inside).max() > 0
            np.testing.assert_allclose(inside / scale, other[picture, :h, :w] / scale, atol=1e-5)
            for array in (level[picture], other[picture]):
                assert not array[h:].any() and not array[:, w:].any()


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (resnet, {"depth": 10, "width": 16, "norm": "frozen_batch"}),
        (resnet, {"depth": 10, "width": 16, "norm": "group"}),
        (resnet, {"depth": 50, "width": 8, "norm": "frozen_batch"}),
        (resnet, {"depth": 50, "width": 8, "norm": "group", "stride_in_1x1": True}),
        (mobilenet, {"width": 0.35, "norm": "frozen_batch"}),
        (mobilenet, {"width": 0.35, "norm": "group"}),
        (mobilenetv4, {"width": 0.25, "norm": "group", "top": "stage"}),
        (csp, {"width": 8, "norm": "none"}),
        (csp, {"width": 8, "norm": "frozen_batch"}),
        (csp, {"width": 8, "norm": "group"}),
        (resnet_d, {"stem": 8, "widths": (16, 16, 24, 32), "blocks": (1, 2, 1, 1)}),
        (
            resnet_d,
            {"stem": 8, "widths": (8, 16, 24, 32), "blocks": (1, 1, 1, 1), "bottleneck": False, "norm": "group"},
        ),
        (hgnet, {"stem": (8, 8), "inner": (8, 8, 8, 8), "widths": (16, 16, 24, 32), "layers": (2, 2, 2, 2)}),
    ],
)
def test_bucket_does_not_matter_to_a_backbone(module, options):
    config = module.Config(groups=4, **options)  # few groups: one of a single number has no variance
    net = module.build(config)
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), padded(64, 64), SIZES))
    apply = jax.jit(net.apply)
    assert_same_inside(
        apply(params, padded(64, 64), SIZES), apply(params, padded(96, 128), SIZES), module.strides(config)
    )


@pytest.mark.parametrize(
    ("module", "options"),
    [
        *(
            (fpn, {"extra": extra, "norm": norm, "groups": 4})
            for extra in ("pool", "conv_c5", "conv_p5")
            for norm in ("none", "group")
        ),
        (light_pan, {"norm": "group", "groups": 4, "first": 0}),
        (light_pan, {"norm": "frozen_batch", "extra": 2, "first": 0}),
        (sum_pan, {"first": 0}),
        (hybrid_encoder, {"hidden": 20, "first": 0}),
        (elan_encoder, {"hidden": 20, "first": 0, "norm": "group", "groups": 4}),
    ],
)
def test_bucket_does_not_matter_to_a_neck(module, options):
    config = module.Config(channels=16, **options)
    neck = module.build(config)
    rng = np.random.default_rng(2)
    full = [rng.normal(size=(2, 64 // stride, 64 // stride, 8)).astype(np.float32) for stride in (4, 8, 16, 32)]

    def levels(high, wide):
        out = []
        for level, stride in zip(full, (4, 8, 16, 32), strict=True):
            array = np.zeros((2, -(-high // stride), -(-wide // stride), 8), np.float32)
            for picture, (h, w) in enumerate(-(-SIZES // stride)):
                array[picture, :h, :w] = level[picture, :h, :w]
            out.append(array)
        return tuple(out)

    params = random_like(jax.eval_shape(neck.init, jax.random.key(0), levels(64, 64), SIZES))
    apply = jax.jit(neck.apply)
    assert_same_inside(
        apply(params, levels(64, 64), SIZES), apply(params, levels(96, 128), SIZES), module.strides(config)
    )


def test_no_zero_of_the_padding_is_the_greatest_of_a_window():
    """A stem that gives negative numbers alone, and a picture on a canvas of its own whose windows end beyond it."""
    net, (high, wide) = csp.build(csp.Config(width=8)), SIZES[0]
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), padded(64, 64), SIZES))
    params["params"]["conv"]["bias"] = np.full(8, -20, np.float32)
    apply = jax.jit(net.apply)
    for level, other in zip(
        apply(params, padded(64, 64)[:1], SIZES[:1]), apply(params, PICTURES[:1, :high, :wide], SIZES[:1]), strict=True
    ):
        _, rows, columns, _ = other.shape
        np.testing.assert_allclose(level[:, :rows, :columns], other, atol=1e-5 * float(jnp.abs(other).max()))
