"""Query detectors in their authors' own files, beside the folders of Hugging Face with the same numbers."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import query_authors
import query_reference as reference
import torch_writer

import jaxkd
from jaxkd.cli import convert
from jaxkd.errors import WeightsError
from jaxkd.export import base
from jaxkd.loading import build, hub, initial, prepare, published
from jaxkd.weights import query_names
from jaxkd.weights.tree import flatten

NAMES = ("motorcycle", "couch", "zebra")
GOLDEN = {  # by hand: a name of the authors, and that of the leaf in jaxkd
    "rt_detr": {
        "backbone.conv1.conv1_3.conv.weight": "backbone/stem_2/conv/kernel",
        "backbone.res_layers.0.blocks.0.short.norm.running_var": "backbone/stage1_0/shortcut/norm/var",
        "backbone.res_layers.1.blocks.1.branch2b.norm.bias": "backbone/stage2_1/conv_1/norm/bias",
        "backbone.res_layers.3.blocks.0.short.conv.conv.weight": "backbone/stage4_0/shortcut/conv/kernel",
        "encoder.input_proj.2.1.running_mean": "neck/input_2/norm/mean",
        "encoder.encoder.0.layers.0.norm2.weight": "neck/attention_0/final_norm/scale",
        "encoder.encoder.0.layers.0.linear1.weight": "neck/attention_0/dense/up/kernel",
        "encoder.fpn_blocks.1.bottlenecks.2.conv2.conv.weight": "neck/down_1/csp/step_2_point/conv/kernel",
        "encoder.downsample_convs.0.norm.weight": "neck/half_0/norm/scale",
        "decoder.input_proj.1.conv.weight": "decoder/input_1/conv/kernel",
        "decoder.enc_output.1.bias": "decoder/selection/content_norm/bias",
        "decoder.enc_bbox_head.layers.2.weight": "decoder/selection/box/layer_2/kernel",
        "decoder.decoder.layers.1.cross_attn.value_proj.bias": "decoder/layer_1/deformable/value/bias",
        "decoder.decoder.layers.0.norm1.bias": "decoder/layer_0/attention_norm/bias",
        "decoder.decoder.layers.0.norm2.bias": "decoder/layer_0/deformable_norm/bias",
        "decoder.decoder.layers.0.norm3.bias": "decoder/layer_0/final_norm/bias",
        "decoder.dec_score_head.1.weight": "decoder/logits_1/kernel",
        "decoder.dec_bbox_head.0.layers.1.bias": "decoder/box_0/layer_1/bias",
        "decoder.query_pos_head.layers.1.weight": "decoder/position/layer_1/kernel",
    },
    "rt_detr_v2": {
        "backbone.res_layers.2.blocks.0.branch2c.conv.weight": "backbone/stage3_0/conv_2/conv/kernel",
        "encoder.input_proj.0.norm.weight": "neck/input_0/norm/scale",
        "encoder.pan_blocks.0.conv3.conv.weight": "neck/up_0/out/conv/kernel",
        "decoder.enc_output.proj.weight": "decoder/selection/content/kernel",
    },
    "d_fine": {
        "backbone.stem.stem2a.lab.scale": "backbone/stem/conv_2a/affine_scale",
        "backbone.stages.2.downsample.conv.weight": "backbone/stage3_down/conv/kernel",
        "backbone.stages.2.blocks.1.layers.1.conv2.bn.weight": "backbone/stage3_1/layer_1_depth/norm/scale",
        "backbone.stages.0.blocks.0.aggregation.0.bn.bias": "backbone/stage1_0/gather_0/norm/bias",
        "encoder.fpn_blocks.0.cv1.conv.weight": "neck/down_0/in/conv/kernel",
        "encoder.pan_blocks.1.cv2.0.conv2.norm.bias": "neck/up_1/csp_0/side/norm/bias",
        "encoder.pan_blocks.1.cv3.1.conv.weight": "neck/up_1/conv_1/conv/kernel",
        "encoder.downsample_convs.1.0.cv2.conv.weight": "neck/half_1_depth/conv/kernel",
        "decoder.decoder.layers.1.gateway.gate.weight": "decoder/layer_1/gate/kernel",
        "decoder.pre_bbox_head.layers.0.weight": "decoder/first_box/layer_0/kernel",
        "decoder.dec_bbox_head.1.layers.2.weight": "decoder/edges_1/layer_2/kernel",
        "decoder.decoder.lqe_layers.1.reg_conf.layers.0.weight": "decoder/quality_1/mlp/layer_0/kernel",
        "decoder.reg_scale": "decoder/reg_scale",
    },
}


@pytest.fixture(scope="module", params=reference.STORED)
def family(request):
    return request.param


def written(place, arrays, **more):
    """A checkpoint of the authors: a run's weights, all zeros, and their average."""
    zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
    torch_writer.save(place, {"last_epoch": 3, "model": zeros, "ema": {"module": arrays, "updates": 7}} | more)
    return place


def as_leaf(array):
    """An array in jaxkd's layout."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


@pytest.mark.parametrize("name", GOLDEN)
def test_names_by_hand(name, tmp_path):
    arrays = query_authors.state(name)
    leaves = flatten(published.load(written(tmp_path / "a.pth", arrays), classes=NAMES)[0].params)
    for theirs, leaf in GOLDEN[name].items():
        np.testing.assert_array_equal(leaves[leaf], as_leaf(arrays[theirs]), err_msg=theirs)
    stacked = arrays["decoder.decoder.layers.1.self_attn.in_proj_weight"]
    for place, part in enumerate(("query", "key", "value")):
        kernel = leaves[f"decoder/layer_1/attention/{part}/kernel"]
        np.testing.assert_array_equal(kernel, stacked[16 * place : 16 * place + 16].T)


def test_a_file_gives_the_folders_detector(family, tmp_path):
    """The folder with the numbers that the file does not have: 300 queries, 640x640, and bilinear sampling."""
    copy = shutil.copytree(reference.ROOT / family, tmp_path / "copy")
    about = json.loads((copy / "config.json").read_text()) | {"num_queries": 300, "decoder_method": "default"}
    (copy / "config.json").write_text(json.dumps(about))
    (copy / "preprocessor_config.json").unlink()
    expected = hub.load(copy, classes=NAMES)
    found = prepare.load_detector(written(tmp_path / "a.pth", query_authors.state(family)), classes=NAMES)
    assert found.detector == expected.detector and found.sizes == expected.sizes
    leaves, others = (flatten(one.params) for one in (found, expected))
    assert leaves.keys() == others.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, others[name], err_msg=name)
    said = " ".join(found.notes)
    assert "leaves matched in ema.module." in said and "300 queries" in said and "4 heads" in said
    assert ("4 points a level" in said, "(dsp)" in said) == (family == "rt_detr", family != "d_fine")


@pytest.mark.parametrize(("name", "flavour"), [("rt_detr", "resnet_d"), ("d_fine", "hgnet")])
def test_a_backbones_file_is_a_start(name, flavour, tmp_path):
    arrays = {name.removeprefix("backbone."): array for name, array in query_authors.state(name).items()}
    arrays = {name: array for name, array in arrays.items() if re.match(r"conv1|res_layers|stem|stages", name)}
    loaded = hub.load(reference.ROOT / name)
    file = tmp_path / "backbone.pth"
    torch_writer.save(file, arrays)
    params, said = initial.params(loaded.detector, jax.random.key(0), str(file))
    leaves, wanted = flatten(params["backbone"]), flatten(loaded.params["backbone"])
    assert f"The student's backbone starts from backbone.pth ({flavour}): {len(wanted)} leaves." == said
    for leaf, array in wanted.items():
        np.testing.assert_array_equal(leaves[leaf], array, err_msg=leaf)
    arrays["stages.9.odd.weight"] = np.zeros(2)
    torch_writer.save(file, arrays)
    with pytest.raises(WeightsError, match=r"stages\.9\.odd\.weight is not used"):
        initial.params(loaded.detector, jax.random.key(0), str(file))


def test_the_command_and_the_same_detections(tmp_path, capsys):
    file, out = written(tmp_path / "a.pth", query_authors.state("rt_detr")), tmp_path / "out"
    assert convert.run([str(file), f"--out={out}", f"--classes={','.join(NAMES)}"]) == 0
    said = capsys.readouterr().out
    assert "RT-DETR rt_detr: " in said and "300 queries" in said
    assert jaxkd.load(out).classes == NAMES
    about = json.loads((out / build.ABOUT).read_text())
    about["detector"]["decoder"]["queries"] = 20  # as the folder has it
    (out / build.ABOUT).write_text(json.dumps(about))
    images, sizes = reference.canvas(reference.SIZE)[None], np.array([reference.SIZE], np.int32)
    detections = [
        jax.jit(base.subject(one, size=reference.SIZE).function)(images, sizes)
        for one in (build.load(out), hub.load(reference.ROOT / "rt_detr"))
    ]
    for name, expected in detections[1].items():
        np.testing.assert_allclose(detections[0][name], expected, atol=1e-4, err_msg=name)


def test_the_average_is_taken_unless_the_other_is_named(tmp_path):
    file = written(tmp_path / "a.pth", query_authors.state("rt_detr"))
    for part, is_zero in ((None, False), ("ema.module", False), ("model", True)):
        loaded, _ = published.load(file, part=part, classes=NAMES)
        assert (not np.any(loaded.params["decoder"]["logits_0"]["kernel"])) == is_zero, part
    alone = {"model": query_authors.state("rt_detr")}
    torch_writer.save(tmp_path / "alone.pth", alone)
    assert published.load(tmp_path / "alone.pth", classes=NAMES)[0].detector.classes == NAMES


SCALE = "decoder.decoder.layers.0.cross_attn.num_points_scale"
STACKED = "decoder.decoder.layers.0.self_attn.in_proj_weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decoder.dec_score_head.1.bias": None}, "decoder/logits_1/bias is missing"),
        ({"encoder.lateral_convs.0.conv.weight": None}, "neck/lateral_0/conv/kernel is missing"),
        ({"decoder.tgt_embed.weight": np.ones((20, 16), np.float32)}, "decoder.tgt_embed.weight is not used"),
        ({"backbone.stages.4.conv.weight": np.ones(3, np.float32)}, "is not used"),
        ({STACKED: np.ones((47, 16), np.float32)}, "in_proj_weight has 47 rows"),
        ({STACKED: np.ones((36, 16), np.float32)}, "has the shape"),
        ({SCALE: np.zeros(9, np.float32)}, "num_points_scale are no shares of points"),
        ({"decoder.decoder.up": np.ones(1, np.float32)}, "decoder.up and decoder.decoder.up, a copy of it"),
        ({"backbone.stem.stem4.conv.weight": None}, "are named as RT-DETR's and lack 'backbone/stem/conv_4"),
        ({"decoder.pre_bbox_head.layers.0.weight": np.full((16, 16), np.nan, np.float32)}, "that are not finite"),
    ],
)
def test_files_that_are_refused(change, said, tmp_path):
    arrays = {name: array for name, array in (query_authors.state("d_fine") | change).items() if array is not None}
    with pytest.raises(WeightsError, match=said) as error:
        published.load(written(tmp_path / "a.pth", arrays), classes=NAMES)
    assert str(error.value).count("\n") == 0


def test_classes_have_to_be_named_unless_they_are_cocos(tmp_path):
    with pytest.raises(WeightsError, match="3 classes and no names for them"):
        published.load(written(tmp_path / "a.pth", query_authors.state("rt_detr")))


def test_names_of_no_detector_stay():
    arrays = {"decoder.enc_output.2.weight": np.ones(2), "head.weight": np.ones(2), "backbone.conv1": np.ones(2)}
    assert query_names.to_published(arrays).keys() == arrays.keys()
