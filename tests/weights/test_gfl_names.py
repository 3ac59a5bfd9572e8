"""GFL under mmdetection's names: every array in its place, both ways strict, and the conventions of its files."""

import jax
import mmdetection_state
import numpy as np
import pytest

from jaxkd.config import component
from jaxkd.errors import WeightsError
from jaxkd.loading import build
from jaxkd.weights.published import recognise
from jaxkd.weights.tree import flatten, match

CLASSES = tuple(f"class {number}" for number in range(80))


@pytest.fixture(scope="module")
def detector():
    recipe = component(
        "detectors.gfl",
        like="mmdetection",
        backbone=component("nets.resnet", like="mmdetection", depth=18, width=8),
        neck=component("nets.fpn", like="mmdetection", channels=16, first=1, extra="conv_p5"),
        head={"convs": 2, "channels": 32, "reg_max": 4},
    )
    return build.detector(recipe, CLASSES)


@pytest.fixture(scope="module")
def params(detector):
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)


def state_of(params):
    """The parameters as a checkpoint of mmdetection has them."""
    state = mmdetection_state.as_mmdetection(params, {"logits": "gfl_cls", "bins": "gfl_reg"})
    return state | {"bbox_head.integral.project": np.arange(5, dtype=np.float32)}


def test_every_array_is_in_its_place(detector, params):
    found = recognise(state_of(params))
    assert found is not None and (found.family, found.kind, found.classes) == ("mmdetection", "detectors.gfl", 80)
    assert found.fields == {"head.convs": 2, "head.channels": 32, "head.reg_max": 4}
    assert found.neck == {"channels": 16, "first": 1, "extra": "conv_p5"}
    assert found.idle == ("bbox_head.integral.project",)
    matched, report = match(build.param_shapes(detector), found.arrays)
    assert not report.unused
    for name, leaf in flatten(matched).items():
        np.testing.assert_array_equal(leaf, flatten(params)[name], err_msg=name)


def test_the_config_of_a_file_says_its_anchors(params):
    anchors = "dict(ratios=[1.0], octave_base_scale=5, scales_per_octave=1, strides=[8, 16, 32, 64, 128])"
    meta = {"cfg": f"anchor_generator={anchors}, mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=True"}
    found = recognise(state_of(params), metadata=meta)
    stated = {"anchors.scale": 5.0, "pixels.mean": (1.0, 2.0, 3.0), "pixels.std": (4.0, 5.0, 6.0)}
    assert {name: found.fields[name] for name in stated} == stated and set(found.stated) == set(stated)
    assert "anchors.sizes" not in found.fields


def test_its_conventions(detector):
    config = detector.config
    assert (config.anchors.scale, config.anchors.offset) == (8.0, 0.0)
    assert not config.assignment.at_least_one and not config.neck.extra_relu
    assert config.compat.padding == "seen" and config.postprocess.nms == 0.6


def test_what_is_missing_or_too_much_is_named(detector, params):
    state = state_of(params)
    del state["bbox_head.scales.4.scale"]
    state["bbox_head.more.weight"] = np.zeros((2, 2), np.float32)
    found = recognise(state)
    with pytest.raises(WeightsError, match=r"head/scale_4 is missing.*bbox_head\.more\.weight is not used"):
        match(build.param_shapes(detector), found.arrays)
    del state["bbox_head.gfl_reg.weight"]
    with pytest.raises(WeightsError, match=r"lack 'head/bins/kernel'"):
        recognise(state)
