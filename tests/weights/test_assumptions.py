"""What arrays do not say: epsilon, anchors, pixels; and what files tell of them all the same."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch_writer
import torchvision_reference as reference
from test_published import NAMES, as_detectron2, as_mmdetection

from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import published
from jaxkd.weights import assumptions, conventions
from jaxkd.weights.assumptions import Overrides
from jaxkd.weights.published import recognise

NARROW = {"width": 8, "channels": 16, "hidden": 32}
VAR = "backbone.body.layer1.0.bn1.running_var"


def state_of(kind="faster_rcnn", depth=18, classes=5):
    return reference.random_state_dict(kind, depth, 1, classes, 7, **NARROW)


def saved(tmp_path, state):
    torch_writer.save(tmp_path / "a.pth", state)
    return tmp_path / "a.pth"


def note(loaded, start):
    return next((said for said in loaded.notes if said.startswith(start)), "")


# ---- epsilon ----


def epsilon(variances, *, usual=1e-5, given=None, scales=None, path=Path("a.pth")):
    scales = np.ones(len(variances)) if scales is None else scales
    arrays = {
        "backbone/bn1/var": np.asarray(variances, np.float32),
        "backbone/bn1/scale": np.asarray(scales, np.float32),
    }
    return assumptions.epsilon_note(arrays, path=path, given=given, usual=usual, family="torchvision")


def test_the_usual_epsilon_is_said_to_be_no_more_than_usual():
    assert epsilon([1.0, 0.01]) == (
        "Epsilon of the backbone's norms: 1e-05, as torchvision has it; the file does not say it (--eps of jaxkd "
        "convert)."
    )


def test_variances_so_small_that_epsilon_matters_are_counted():
    found = epsilon([1.0, 1e-5, 1e-7, 1e-7], scales=[1, 1, 0, 2])
    factor = np.sqrt((1e-7 + 1e-5) / 1e-7)
    assert "2 of 4 channels have variances so small that an epsilon of 0 would change their scale" in found
    assert f"by a factor of up to {factor:.3g}" in found
    assert "COCO_V1" in found
    assert "matters" not in epsilon([1.0, 5e-4]) and "matters" in epsilon([1.0, 4e-4])
    assert "1 of 2 channels" in (said := epsilon([1.0, 0.0])) and "without bound" in said
    assert "matters" not in epsilon([1.0, 1e-9], given=0.0)


def test_what_is_given_is_taken():
    assert "0, as given" in epsilon([1.0], given=0.0) and "as given" in epsilon([1.0], given=0.001)


def test_an_epsilon_of_0_and_a_variance_of_0_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"1 variances .* backbone/bn1/var.*--eps=1e-5"):
        epsilon([1.0, 0.0], given=0.0)
    with pytest.raises(WeightsError, match="are 0 or less"):
        epsilon([1.0, -1.0])


def test_torchvisions_own_file_is_known_by_its_sum(tmp_path, monkeypatch):
    path = tmp_path / "renamed.pth"
    path.write_bytes(b"weights")
    assert set(assumptions.COCO_V1) == {"258fb6c6", "eeacb38b"}
    other = epsilon([1.0, 1e-7], usual=0.0, path=path)
    assert "does not say it" in other and "epsilon of 1e-05 would change" in other
    monkeypatch.setitem(assumptions.COCO_V1, hashlib.sha256(b"weights").hexdigest()[:8], "theirs.pth")
    known = epsilon([1.0, 1e-7], usual=0.0, path=path)
    assert known.endswith("torchvision sets for theirs.pth, this file by its sum.")


@pytest.mark.parametrize(
    ("depth", "width", "classes", "eps"), [(50, 64, 91, 0.0), (50, 64, 5, 1e-5), (50, 8, 91, 1e-5)]
)
def test_only_what_can_be_coco_v1_is_taken_for_it(depth, width, classes, eps):
    state = reference.random_state_dict("faster_rcnn", depth, 1, classes, 7, width=width, channels=16, hidden=32)
    assert recognise(state).backbone["eps"] == eps


def test_a_fine_tuned_detector_is_told_of(tmp_path):
    state = state_of()
    state[VAR] = np.full_like(state[VAR], 1e-8)
    loaded, report = published.load(saved(tmp_path, state), classes=NAMES)
    said = note(loaded, "Epsilon")
    assert loaded.config.backbone.eps == 1e-5 and f"It matters here: {len(state[VAR])} of" in said and said in report
    loaded, _ = published.load(tmp_path / "a.pth", classes=NAMES, overrides=Overrides(eps=0.0))
    assert loaded.config.backbone.eps == 0.0 and note(loaded, "Epsilon").endswith("0, as given.")


# ---- anchors ----


def test_anchors_are_the_librarys_or_those_given(tmp_path):
    path = saved(tmp_path, state_of())
    loaded, _ = published.load(path, classes=NAMES)
    assert note(loaded, "Anchors") == (
        "Anchors of 32, 64, 128, 256, 512 pixels (--anchors of jaxkd convert) with ratios of 0.5, 1, 2 (--ratios), as "
        "torchvision has them; the file does not say it."
    )
    given = Overrides(anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0))
    loaded, _ = published.load(path, classes=NAMES, overrides=given)
    assert (
        loaded.config.anchors.sizes == given.anchor_sizes and loaded.detector.config.anchors.sizes == given.anchor_sizes
    )
    assert (
        note(loaded, "Anchors")
        == "Anchors with ratios of 0.5, 1, 2 (--ratios), as torchvision has them; the file does not say it."
    )
    loaded, _ = published.load(
        path, classes=NAMES, overrides=Overrides(anchor_sizes=(8.0,) * 5, anchor_ratios=(0.2, 1.0, 5.0))
    )
    assert loaded.config.anchors.ratios == (0.2, 1.0, 5.0) and not note(loaded, "Anchors")
    with pytest.raises(ConfigError, match=r"anchors\.sizes has 2 entries, the pyramid 5 levels"):
        published.load(path, classes=NAMES, overrides=Overrides(anchor_sizes=(8.0, 16.0)))


def with_anchors(state, name, count, *, ratios, of=1):
    """The outputs called `name` with `count` anchors a cell in place of `ratios` times some."""
    out = dict(state)
    for leaf in ("weight", "bias"):
        array = out[f"{name}.{leaf}"]
        out[f"{name}.{leaf}"] = np.resize(array, (len(array) // ratios * count, *array.shape[1:]))
    return out


def test_another_number_of_anchors_a_cell_is_refused_or_said():
    state = state_of()
    for name in ("rpn.head.cls_logits", "rpn.head.bbox_pred"):
        state = with_anchors(state, name, 5, ratios=3)
    with pytest.raises(WeightsError, match=r"5 anchors a cell, which are not one size in 3 ratios; give .*--ratios"):
        recognise(state)
    assert recognise(state, ratios=5).fields["rpn.depth"] == 1
    dense = state_of("retinanet")
    for name in ("head.classification_head.cls_logits", "head.regression_head.bbox_reg"):
        dense = with_anchors(dense, name, 10, ratios=9)
    with pytest.raises(WeightsError, match="10 anchors a cell, which are not 3 ratios of each size; give"):
        recognise(dense)
    assert recognise(dense, ratios=5).fields["anchors.octaves"] == 2


def test_ratios_reorder_detectron2s_anchors():
    """Its cells run over sizes, then ratios; two ratios of three sizes are not three of two."""
    state = as_detectron2(state_of("retinanet", 50))
    for name in ("head.cls_score", "head.bbox_pred"):
        state = with_anchors(state, name, 6, ratios=9)
    by_three, by_two = recognise(state), recognise(state, ratios=2)
    assert (by_three.fields["anchors.octaves"], by_two.fields["anchors.octaves"]) == (2, 3)
    given = state["head.bbox_pred.bias"].reshape(6, 4)
    np.testing.assert_array_equal(by_two.arrays["head/deltas/bias"].reshape(6, 4), given[[0, 2, 4, 1, 3, 5]])
    np.testing.assert_array_equal(by_three.arrays["head/deltas/bias"].reshape(6, 4), given[[0, 3, 1, 4, 2, 5]])


# ---- what files tell ----


def cells(size, ratios, octaves=1):
    """detectron2's anchors of a cell [a 4]."""
    rows = []
    for octave in range(octaves):
        for ratio in ratios:
            area = (size * 2 ** (octave / octaves)) ** 2
            width = (area / ratio) ** 0.5
            rows.append([-width / 2, -width * ratio / 2, width / 2, width * ratio / 2])
    return np.array(rows, np.float32)


def buffers(sizes=(16, 32, 64, 128, 256), ratios=(0.5, 1, 2), octaves=1, mean=(103.53, 116.28, 123.675), std=(1, 1, 1)):
    found = {
        f"proposal_generator.anchor_generator.cell_anchors.{level}": cells(size, ratios, octaves)
        for level, size in enumerate(sizes)
    }
    found |= {
        "pixel_mean": np.array(mean, np.float32).reshape(3, 1, 1),
        "pixel_std": np.array(std, np.float32).reshape(3, 1, 1),
    }
    return found


def test_detectron2s_buffers_are_followed(tmp_path):
    state = as_detectron2(state_of(depth=50)) | buffers(std=(57.375, 57.12, 58.395))
    loaded, _ = published.load(saved(tmp_path, {"model": state}), classes=NAMES)
    config = loaded.config
    assert config.anchors.sizes == (16.0, 32.0, 64.0, 128.0, 256.0) and config.anchors.ratios == (0.5, 1.0, 2.0)
    assert config.pixels.mean == (123.675, 116.28, 103.53) and config.pixels.std == (58.395, 57.12, 57.375)
    assert not note(loaded, "Anchors") and "anchors.sizes 16, 32, 64, 128, 256" in note(loaded, "The file states")
    stem = np.asarray(loaded.params["backbone"]["conv1"]["kernel"])
    np.testing.assert_array_equal(stem, state["backbone.bottom_up.stem.conv1.weight"].transpose(2, 3, 1, 0)[:, :, ::-1])
    with pytest.raises(ConfigError, match=r"anchors\.sizes is given as 8, 8, 8, 8, 8, and the file says 16"):
        published.load(tmp_path / "a.pth", classes=NAMES, overrides=Overrides(anchor_sizes=(8.0,) * 5))


def test_a_mean_that_falls_from_its_first_channel_is_of_rgb():
    state = as_detectron2(state_of(depth=50))
    rgb = recognise(state | buffers(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)))
    assert rgb.fields["pixels.mean"] == (123.675, 116.28, 103.53) and rgb.fields["pixels.std"] == (
        58.395,
        57.12,
        57.375,
    )
    stem = state["backbone.bottom_up.stem.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(rgb.arrays["backbone/conv1/kernel"], stem)
    np.testing.assert_array_equal(recognise(state).arrays["backbone/conv1/kernel"], stem[:, :, ::-1])


def test_anchors_among_the_weights_have_to_fit():
    state = as_detectron2(state_of(depth=50))
    dense = as_detectron2(state_of("retinanet", 50))
    renamed = {name.removeprefix("proposal_generator."): array for name, array in buffers(octaves=3).items()}
    assert recognise(dense | renamed).fields["anchors.sizes"] == (16.0, 32.0, 64.0, 128.0, 256.0)
    odd = buffers()
    odd["proposal_generator.anchor_generator.cell_anchors.1"] = cells(32, (0.5, 1, 3))
    uneven = {"anchor_generator.cell_anchors.0": np.concatenate([cells(32, (0.5, 1, 2)), cells(99, (0.5, 1, 2))])}
    flat = {"anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32)}
    for more, words in (
        (buffers(sizes=(16, 32)), "1 sizes on 2 levels, and their outputs are for 1 on 5"),
        (buffers(octaves=3), "3 sizes on 5 levels"),
        (buffers(ratios=(1, 2)), "3 anchors a cell, which are not one size in 2 ratios"),
        (odd, "differ between levels"),
        (uneven, "no octaves|not octaves"),
        (flat, "no area"),
        ({"pixel_mean": np.ones(2)}, "three channels"),
        ({"pixel_std": np.zeros(3)}, "three channels"),
        ({"anchor_generator.cell_anchors.0": np.ones(3)}, "shapes do not fit"),
    ):
        with pytest.raises(WeightsError, match=words):
            recognise(state | more)


CAFFE = """
model = dict(
    backbone=dict(depth=50, norm_eval=True, style='caffe', type='ResNet'),
    data_preprocessor=dict(bgr_to_rgb=False, mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]),
    rpn_head=dict(
        anchor_generator=dict(
            ratios=[0.5, 1.0, 2.0], scales=[4], strides=[4, 8, 16, 32, 64], type='AnchorGenerator'),
        bbox_coder=dict(target_means=[0.0, 0.0, 0.0, 0.0])))
"""
OLD = "img_norm_cfg = dict(\n    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)"
DENSE = "anchor_generator=dict(octave_base_scale=8, ratios=[1.0], scales_per_octave=2, strides=[8, 16], type='A')"


def test_mmdetections_config_is_read_and_not_executed():
    found = conventions.from_config({"cfg": CAFFE})
    assert found.bgr is True and found.backbone == {"stride_in_1x1": True} and found.octaves == 1
    assert found.fields == {
        "pixels.mean": (123.675, 116.28, 103.53),
        "pixels.std": (1.0, 1.0, 1.0),
        "anchors.sizes": (16.0, 32.0, 64.0, 128.0, 256.0),
        "anchors.ratios": (0.5, 1.0, 2.0),
    }
    found = conventions.from_config({"config": OLD})
    assert found.bgr is False and found.fields["pixels.std"] == (58.395, 57.12, 57.375) and not found.backbone
    found = conventions.from_config({"cfg": DENSE})
    assert found.fields == {"anchors.sizes": (64.0, 128.0), "anchors.ratios": (1.0,)} and found.octaves == 2
    for text in (
        "",
        "mean=[open('x')]",
        "style = caffe",
        "anchor_generator=dict(strides=[f(4)], scales=[8])",
        "to_rgb=3",
    ):
        assert conventions.from_config({"cfg": text}) == conventions.Conventions()


def test_mmdetections_conventions_are_those_of_its_config():
    state = as_mmdetection(state_of(depth=50))
    usual, caffe = recognise(state), recognise(state, metadata={"cfg": CAFFE})
    assert caffe.backbone["stride_in_1x1"] and caffe.fields["pixels.std"] == (1.0, 1.0, 1.0)
    assert caffe.fields["anchors.sizes"] == (16.0, 32.0, 64.0, 128.0, 256.0) and "anchors.sizes" not in usual.fields
    stem = "backbone/conv1/kernel"
    np.testing.assert_array_equal(caffe.arrays[stem], usual.arrays[stem][:, :, ::-1])
    other = recognise(state, metadata={"cfg": CAFFE.replace("[4, 8, 16, 32, 64]", "[8, 16]")})  # of another part
    assert "anchors.sizes" not in other.fields and other.fields["pixels.std"] == (1.0, 1.0, 1.0)
