"""FCOS under mmdetection's names: every array in its place, both ways strict, and what its arrays do not say."""

import jax
import mmdetection_state
import numpy as np
import pytest
import torch_writer

from jaxkd.config import component
from jaxkd.errors import WeightsError
from jaxkd.loading import build, published
from jaxkd.weights.published import recognise
from jaxkd.weights.tree import flatten, match

CLASSES = tuple(f"class {number}" for number in range(80))
OUTPUTS = {"logits": "conv_cls", "deltas": "conv_reg", "quality": "conv_centerness"}
# Fields of the two versions of the paper as mmdetection's configs have them, by whether towers have a bias.
FIELDS = {
    False: {
        "head.box_activation": "exp",
        "head.centerness_tower": "class",
        "assignment.radius": 0.0,
        "loss.box_loss": "iou",
        "postprocess.nms": 0.5,
    },
    True: {
        "head.box_activation": "relu",
        "head.centerness_tower": "box",
        "assignment.radius": 1.5,
        "loss.box_loss": "giou",
        "postprocess.nms": 0.6,
    },
}
CAFFE = {"pixels.mean": (122.7717, 115.9465, 102.9801), "pixels.std": (1.0, 1.0, 1.0)}
STEM = "backbone/conv1/kernel"


def detector_of(*, bias=True, **net):
    net = {"depth": 18, "width": 8} | net
    recipe = component(
        "detectors.fcos",
        like="mmdetection",
        backbone=component("nets.resnet", like="mmdetection", **net),
        neck=component("nets.fpn", like="mmdetection", channels=16, first=1, extra="conv_p5"),
        head={"convs": 2, "channels": 32, "bias": bias},
    )
    return build.detector(recipe, CLASSES)


def params_of(detector):
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.asarray(draw.uniform(1, 2, leaf.shape), np.float32), shapes)


def state_of(**options):
    return mmdetection_state.as_mmdetection(params_of(detector_of(**options)), OUTPUTS)


@pytest.mark.parametrize("bias", [False, True])
def test_every_array_is_in_its_place(bias):
    detector = detector_of(bias=bias)
    params = params_of(detector)
    found = recognise(mmdetection_state.as_mmdetection(params, OUTPUTS))
    assert found is not None and (found.family, found.kind, found.classes) == ("mmdetection", "detectors.fcos", 80)
    assert found.fields == {"head.convs": 2, "head.channels": 32, "head.bias": bias} | FIELDS[bias]
    assert found.neck == {"channels": 16, "first": 1, "extra": "conv_p5", "extra_relu": True}
    matched, report = match(build.param_shapes(detector), found.arrays)
    assert not report.unused and found.idle == ()
    for name, leaf in flatten(matched).items():
        np.testing.assert_array_equal(leaf, flatten(params)[name], err_msg=name)


def test_names_of_the_table():
    state = state_of()
    assert {name for name in state if "convs.1" in name and "bbox_head" in name} == {
        f"bbox_head.{tower}_convs.1.{leaf}"
        for tower in ("cls", "reg")
        for leaf in ("conv.weight", "conv.bias", "gn.weight", "gn.bias")
    }
    assert state["bbox_head.conv_centerness.weight"].shape == (1, 32, 3, 3)
    assert state["bbox_head.scales.4.scale"].shape == () and "neck.fpn_convs.4.conv.bias" in state


def test_resnets_are_assumed_to_be_caffes_where_mmdetection_has_such():
    kinds = {"r18": {}, "r50": {"depth": 50}, "x50": {"depth": 50, "cardinality": 2, "part_width": 4}}
    for name, net in kinds.items():
        state = state_of(**net)
        found, stem = recognise(state), state["backbone.conv1.weight"].transpose(2, 3, 1, 0)
        caffe = name == "r50"
        assert CAFFE.items() <= found.fields.items() if caffe else not CAFFE.keys() & found.fields.keys()
        assert found.backbone.get("stride_in_1x1", False) is caffe
        np.testing.assert_array_equal(found.arrays[STEM], stem[:, :, ::-1] if caffe else stem)
        assert ("pictures in BGR" in found.notes[0]) is caffe


def test_what_is_assumed_is_said(tmp_path):
    torch_writer.save(tmp_path / "fcos.pth", {"state_dict": state_of(depth=50)})
    loaded, report = published.load(tmp_path / "fcos.pth", classes=CLASSES)
    assert "unused" not in report
    (note,) = (note for note in loaded.notes if note.startswith("Assumed"))
    assert note == (
        "Assumed, as mmdetection's configs have it and the file does not say: head.box_activation relu; "
        "head.centerness_tower box; assignment.radius 1.5; loss.box_loss giou; postprocess.nms 0.6; pixels.mean "
        "122.772, 115.947, 102.98; pixels.std 1, 1, 1; stride_in_1x1 True and pictures in BGR."
    )
    config = loaded.detector.config
    assert config.neck.extra_relu and config.backbone.stride_in_1x1 and config.head.bias
    assert (config.points.offset, config.compat.padding, config.assignment.closed) == (0.5, "seen", True)
    assert config.loss.box_weighting and config.postprocess.score == "product"


CONFIG = """
model = dict(
    type='FCOS',
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(type='ResNet', depth=50, style='pytorch'),
    bbox_head=dict(type='FCOSHead', strides=[8, 16, 32, 64, 128], center_sampling=True, center_sample_radius=2,
        loss_bbox=dict(type='IoULoss', loss_weight=1.0)),
    test_cfg=dict(nms_pre=1000, nms=dict(type='nms', iou_threshold=0.55)))
"""


def test_a_config_is_followed_in_place_of_all_that_is_assumed():
    state = state_of(depth=50)
    found = recognise(state, metadata={"cfg": CONFIG})
    stated = {
        "pixels.mean": (123.675, 116.28, 103.53),
        "pixels.std": (58.395, 57.12, 57.375),
        "head.box_activation": "exp",
        "head.centerness_tower": "class",
        "assignment.radius": 2.0,
        "loss.box_loss": "iou",
        "postprocess.nms": 0.55,
    }
    assert found.stated == tuple(stated) and stated.items() <= found.fields.items()
    assert found.backbone["stride_in_1x1"] is False
    assert [note.split(":")[0] for note in found.notes] == ["The file states these conventions"]
    np.testing.assert_array_equal(found.arrays[STEM], state["backbone.conv1.weight"].transpose(2, 3, 1, 0))
    improved = CONFIG.replace("center_sampling", "norm_on_bbox=True, centerness_on_reg=True, center_sampling")
    fields = recognise(state, metadata={"cfg": improved.replace("IoULoss", "GIoULoss")}).fields
    assert {name: fields[name] for name in FIELDS[True]} == FIELDS[True] | {
        "assignment.radius": 2.0,
        "postprocess.nms": 0.55,
    }


def test_a_part_of_a_config_leaves_the_rest_assumed():
    found = recognise(state_of(depth=50), metadata={"cfg": "style='pytorch'"})
    assert found.backbone["stride_in_1x1"] is False and FIELDS[True].items() <= found.fields.items()
    assert "stride_in_1x1" in found.notes[0] and "stride_in_1x1" not in found.notes[1]


def test_what_is_missing_or_too_much_is_named():
    state, shapes = state_of(), build.param_shapes(detector_of())
    del state["bbox_head.scales.4.scale"]
    state["bbox_head.reg_convs.1.conv.conv_offset.weight"] = np.zeros((2, 2), np.float32)  # deformable
    with pytest.raises(WeightsError, match=r"head/scale_4 is missing.*conv_offset\.weight is not used"):
        match(shapes, recognise(state).arrays)
    state = state_of()
    del state["bbox_head.reg_convs.1.conv.bias"]
    with pytest.raises(WeightsError, match=r"head/box_1/bias is missing"):
        match(shapes, recognise(state).arrays)
    del state["bbox_head.conv_cls.weight"]
    with pytest.raises(WeightsError, match=r"lack 'head/logits/kernel'"):
        recognise(state)
