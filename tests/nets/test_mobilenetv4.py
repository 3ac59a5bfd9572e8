"""MobileNetV4: parameters of each stage, and the outputs of timm's net of the same weights."""

import warnings
from collections import Counter

import jax
import numpy as np
import pytest
import timm_reference
from jax import numpy as jnp

from jaxkd.nets import mobilenetv4
from jaxkd.weights import backbone_names, tree

SIZES = [(96, 128), (101, 77)]


def shapes_of(config, high=75, wide=50):
    images, extents = jax.ShapeDtypeStruct((1, high, wide, 3), jnp.float32), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    net = mobilenetv4.build(config)
    params = jax.eval_shape(net.init, jax.random.key(0), images, extents)
    return tree.flatten(params["params"]), jax.eval_shape(net.apply, params, images, extents)


@pytest.mark.parametrize(
    ("fields", "stages", "top"),
    [
        ({"size": "small"}, (928, 10_368, 34_112, 272_160, 819_296), 124_800),
        ({"size": "medium"}, (928, 43_360, 59_552, 1_521_040, 5_330_592), 247_680),
        ({"size": "small", "width": 0.5}, (464, 2_624, 8_608, 73_104, 221_744), 31_680),
    ],
)
def test_every_stage_has_the_published_number_of_parameters(fields, stages, top):
    counts = Counter()
    leaves, levels = shapes_of(mobilenetv4.Config(**fields))
    for name, leaf in leaves.items():
        if not name.endswith(("/mean", "/var")):
            on_top = name.startswith("block_4_0/")
            counts["top" if on_top else mobilenetv4.stage_of(tuple(name.split("/")))] += leaf.size
    assert counts == {**dict(enumerate(stages)), "top": top}
    assert mobilenetv4.stage_of(("block_4_0", "conv", "kernel")) == 4
    sides = ((19, 13), (10, 7), (5, 4), (3, 2))
    expected = zip(sides, mobilenetv4.channels(mobilenetv4.Config(**fields)), strict=True)
    assert [level.shape for level in levels] == [(1, *side, wide) for side, wide in expected]


def test_widths_of_levels():
    widths = {
        (size, top): mobilenetv4.channels(mobilenetv4.Config(size=size, top=top))
        for size in ("small", "medium")
        for top in ("stage", "wide")
    }
    assert widths == {
        ("small", "stage"): (32, 64, 96, 128),
        ("small", "wide"): (32, 64, 96, 960),
        ("medium", "stage"): (48, 80, 160, 256),
        ("medium", "wide"): (48, 80, 160, 960),
    }
    leaves, _ = shapes_of(mobilenetv4.Config(top="stage"))
    assert not any(name.startswith("block_4") for name in leaves)
    assert mobilenetv4.channels(mobilenetv4.Config(width=0.5)) == (16, 32, 48, 480)


def assert_equal_levels(config, arrays, expected):
    """The net of arrays with timm's names makes the levels `expected(picture)` of a picture on a larger canvas."""
    leaves, flavour = backbone_names.to_jaxkd(arrays)
    net = mobilenetv4.build(config)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 2), jnp.int32))
    params, report = tree.match(shapes["params"], leaves)
    assert flavour == "mobilenet_v4" and not report.unused
    apply = jax.jit(net.apply)
    for size in SIZES:
        picture = np.random.default_rng(size[0]).normal(size=(*size, 3)).astype(np.float32)
        canvas = np.full((1, 128, 128, 3), 7.0, np.float32)
        canvas[0, : size[0], : size[1]] = picture
        for level, other in zip(apply({"params": params}, canvas, np.array([size])), expected(picture), strict=True):
            inside = np.asarray(level[0, : other.shape[0], : other.shape[1]])
            assert np.abs(inside - other).max() < 1e-4 * np.abs(other).max() and np.abs(other).max() > 0.1
            assert not level[0, other.shape[0] :].any() and not level[0, :, other.shape[1] :].any()


@pytest.mark.parametrize(("size", "width"), [("small", 0.5), ("medium", 0.25)])
def test_outputs_are_those_of_the_convolutions_of_timms_arrays(size, width):
    config = mobilenetv4.Config(size=size, width=width)
    arrays = timm_reference.state_of(shapes_of(config)[0])
    assert_equal_levels(config, arrays, lambda picture: timm_reference.forward(arrays, picture))


@pytest.mark.parametrize("size", ["small", "medium"])
def test_outputs_are_those_of_timm(size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries
        timm, torch = (pytest.importorskip(name, exc_type=ImportError) for name in ("timm", "torch"))
    config = mobilenetv4.Config(size=size)
    arrays = timm_reference.state_of(shapes_of(config)[0])
    peer = timm.create_model(f"mobilenetv4_conv_{size}", pretrained=False, features_only=True).eval()
    peer.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, strict=True)

    def levels(picture):
        with torch.no_grad():
            found = peer(torch.from_numpy(picture.transpose(2, 0, 1)[None]))
        return [level[0].numpy().transpose(1, 2, 0) for level in found[-4:]]

    assert_equal_levels(config, arrays, levels)
