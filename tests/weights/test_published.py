"""Published detectors give here what they give at home, from the pyramid to the last box."""

import contextlib
import functools
import pickle

import jax
import numpy as np
import pytest
import torch_writer
import torchvision_peer as peer
import torchvision_reference as reference
from jax import numpy as jnp

from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import published
from jaxkd.ops import boxes as box_ops
from jaxkd.types import Batch, Predictions, Regions
from jaxkd.weights.published import recognise

NARROW = {"width": 16, "channels": 32, "hidden": 64}
NAMES = ("cat", "dog", "cow", "hen")
CASES = [
    ("faster_rcnn", 18, 1, True),
    ("faster_rcnn", 50, 1, False),
    ("faster_rcnn", 50, 2, False),
    ("retinanet", 18, 1, True),
    ("retinanet", 50, 1, False),
    ("retinanet", 50, 2, False),
    ("fcos", 18, 1, False),
    ("fcos", 50, 1, False),
]
HEIGHT, WIDTH = 160, 224
CUT = (150, 171)  # height and width of a picture that its originals pad to 160 x 192


def state_of(kind, depth, version, old_names):
    return reference.random_state_dict(kind, depth, version, len(NAMES) + 1, 7, **NARROW, old_names=old_names)


@functools.cache
def picture():
    return np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def batch_of(image, *, bucket=(0, 0)):
    """The picture on a canvas of the bucket's size, or of its own."""
    spare = [max(canvas - side, 0) for canvas, side in zip(bucket, image.shape[:2], strict=True)]
    return Batch(
        images=jnp.asarray(np.pad(image, [(0, spare[0]), (0, spare[1]), (0, 0)])[None]),
        sizes=jnp.array([image.shape[:2]], jnp.int32),
        boxes=jnp.zeros((1, 1, 4)),
        labels=jnp.zeros((1, 1), jnp.int32),
        valid=jnp.zeros((1, 1), bool),
        crowd=jnp.zeros((1, 1), bool),
        ids=jnp.zeros(1, jnp.int32),
        scales=jnp.ones((1, 2)),
        real=jnp.ones(1, bool),
    )


def regions_of(boxes):
    blank = jnp.zeros((1, len(boxes)), jnp.int32)
    boxes = jnp.asarray(boxes, jnp.float32)[None]
    return Regions(
        boxes=boxes, labels=blank, deltas=0 * boxes, truth=blank, positive=blank > 0, valid=jnp.ones_like(blank, bool)
    )


def assert_near(mine, theirs, name):
    error = np.abs(np.asarray(mine) - theirs).max() / np.abs(theirs).max()
    assert error < 1e-4, (name, error)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-r{case[1]}-v{case[2]}")
def test_every_stage_is_torchvisions(case, tmp_path):
    """From the pyramid to the last box, for a picture on a canvas of its own size."""
    kind, depth = case[:2]
    state = state_of(*case)
    torch_writer.save(tmp_path / "detector.pth", state)
    loaded, report = published.load(tmp_path / "detector.pth", classes=NAMES)
    assert report.startswith(f"torchvision {kind}: ") and "missing" not in report and "unused" not in report
    assert loaded.detector.config.backbone.depth == depth and loaded.detector.classes == NAMES
    assert_torchvisions(loaded, getattr(reference, kind)(state, picture()), batch_of(picture()))


@pytest.mark.parametrize("bucket", [(160, 192), (224, 320)])
@pytest.mark.parametrize(
    "case", [CASES[1], CASES[2], CASES[5], CASES[7]], ids=lambda case: f"{case[0]}-r{case[1]}-v{case[2]}"
)
def test_padding_is_seen_as_torchvision_has_it_in_any_bucket(case, bucket, tmp_path):
    """A picture whose sides are no multiples of 32; the coarsest levels have 2 x 2 cells, of 80 x 96 pixels."""
    state, image = state_of(*case), picture()[: CUT[0], : CUT[1]]
    torch_writer.save(tmp_path / "detector.pth", state)
    loaded, _ = published.load(tmp_path / "detector.pth", classes=NAMES)
    assert_torchvisions(loaded, getattr(reference, case[0])(state, image), batch_of(image, bucket=bucket))


def assert_torchvisions(loaded, wanted, batch):
    """All that the detector says about a picture is what the reference says; nothing lies beyond what that sees."""
    detector, params = loaded.detector, loaded.params

    @jax.jit
    def look(params, boxes):
        features = detector.features(params, batch)
        regions, _ = detector.sample_regions(params, features, batch, jax.vmap(jax.random.key)(jnp.arange(1)))
        if "box_predictions" in detector.traits.capabilities:
            regions = regions_of(boxes)
        return (
            features.neck,
            regions,
            detector.predict(params, features, regions.boxes, batch),
            detector.detect(params, batch),
        )

    boxes = wanted.proposals if hasattr(wanted, "proposals") else np.zeros((1, 4))
    levels, regions, predictions, found = jax.device_get(look(params, boxes))
    present = []
    for index, (mine, theirs) in enumerate(zip(levels, wanted.pyramid, strict=True)):
        high, wide = theirs.shape[2:]
        assert_near(np.moveaxis(mine[:, :high, :wide], -1, 1), theirs, f"level {index}")
        assert not mine[:, high:].any() and not mine[:, :, wide:].any()
        cells = np.zeros(mine.shape[1:3], bool)
        cells[:high, :wide] = True
        present.append(cells.ravel())
    if hasattr(wanted, "proposals"):
        assert_near(np.roll(predictions.logits[0], 1, axis=-1), wanted.class_logits, "class logits")
        assert_near(predictions.deltas[0], wanted.box_deltas[:, 1:], "box deltas")
    else:
        present = np.concatenate(present).repeat(regions.boxes.shape[1] // sum(map(len, present)))
        np.testing.assert_allclose(regions.boxes[0][present], np.concatenate(wanted.anchors), atol=1e-3)
        np.testing.assert_array_equal(regions.valid[0], present)
        assert_near(predictions.logits[0][present], np.concatenate(wanted.logits)[:, 1:], "class logits")
        assert_near(predictions.deltas[0, present, 0], np.concatenate(wanted.deltas), "deltas")
    if hasattr(wanted, "quality"):
        assert_near(predictions.quality[0, present], np.concatenate(wanted.quality)[:, 0], "quality")
    valid = found.valid[0]
    mine = found.boxes[0][valid], found.scores[0][valid], found.labels[0][valid] + 1
    assert len(wanted.boxes) > 20
    # torchvision's FCOS keeps empty boxes, such as those of points in the padding; they are no detections here.
    some = (wanted.boxes[:, 2:] > wanted.boxes[:, :2]).all(axis=1)
    assert some.sum() <= len(mine[0]) <= len(some)
    theirs = [part[some] for part in (wanted.boxes, wanted.scores, wanted.labels)]
    assert reference.unmatched([part[: some.sum()] for part in mine], theirs) == 0


def test_proposals_are_torchvisions(tmp_path):
    state = state_of("faster_rcnn", 50, 2, False)
    torch_writer.save(tmp_path / "detector.pth", state)
    loaded, _ = published.load(tmp_path / "detector.pth", classes=NAMES)
    detector, batch, wanted = loaded.detector, batch_of(picture()), reference.faster_rcnn(state, picture())

    @jax.jit
    def propose(params):
        dense = detector._rpn_predictions(params, detector.features(params, batch), batch)
        proposals = detector._propose(*dense, batch, before=1000, after=1000)
        anchors, logits, deltas = dense
        return anchors.boxes[0], logits, deltas, proposals.boxes[0], proposals.valid[0]

    anchors, logits, deltas, boxes, valid = jax.device_get(propose(loaded.params))
    np.testing.assert_allclose(anchors, np.concatenate(wanted.anchors), atol=1e-3)
    for index in range(5):
        assert_near(logits[index][0], wanted.objectness[index], f"objectness {index}")
        assert_near(deltas[index][0], wanted.rpn_deltas[index], f"deltas {index}")
    mine = boxes[valid]
    assert len(mine) == len(wanted.proposals)
    blank = np.zeros(len(mine))
    assert reference.unmatched((mine, blank, blank), (wanted.proposals, blank, blank)) == 0


RATIOS, SIZES = 3, 3


def blocks(text):
    """torchvision's name of a backbone's leaf in detectron2's words."""
    stage, block, rest = text.removeprefix("layer").split(".", 2)
    rest = rest.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    for number in "123":
        rest = rest.replace(f"bn{number}", f"conv{number}.norm")
    return f"res{int(stage) + 1}.{block}.{rest}"


def as_detectron2(state):
    """torchvision's weights as detectron2 would store the same detector."""
    out, dense = {}, any("classification_head" in name for name in state)
    words = {
        "backbone.fpn.extra_blocks": "backbone.top_block",
        "rpn.head.conv.0.0": "proposal_generator.rpn_head.conv",
        "rpn.head.cls_logits": "proposal_generator.rpn_head.objectness_logits",
        "rpn.head.bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
        "roi_heads.box_head.fc6": "roi_heads.box_head.fc1",
        "roi_heads.box_head.fc7": "roi_heads.box_head.fc2",
        "head.classification_head.cls_logits": "head.cls_score",
        "head.regression_head.bbox_reg": "head.bbox_pred",
    }
    for name, array in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.startswith("backbone.body."):
            inner = name.removeprefix("backbone.body.")
            inner = blocks(inner) if inner.startswith("layer") else f"stem.{inner.replace('bn1', 'conv1.norm')}"
            array = np.ascontiguousarray(array[:, ::-1]) if inner == "stem.conv1.weight" else array
            out[f"backbone.bottom_up.{inner}"] = array
            continue
        for old, new in (("inner_blocks", "lateral"), ("layer_blocks", "output")):
            for level in range(4):
                mark = f"backbone.fpn.{old}.{level}.0"
                if name.startswith(mark):
                    name = name.replace(mark, f"backbone.fpn_{new}{level + (3 if dense else 2)}")
        for which, new in (("classification", "cls"), ("regression", "bbox")):
            for number in range(4):
                mark = f"head.{which}_head.conv.{number}.0"
                name = name.replace(mark, f"head.{new}_subnet.{2 * number}")
        for old, new in words.items():
            name = name.replace(old, new)
        out[name] = array
    return with_foreground_first(out, "head.cls_score", "head.bbox_pred" if dense else "", sizes_first=True)


def as_mmdetection(state):
    """torchvision's weights as mmdetection would store the same detector."""
    out, dense = {}, any("classification_head" in name for name in state)
    words = {
        "backbone.body.": "backbone.",
        "backbone.fpn.extra_blocks.p6": "neck.fpn_convs.3.conv",
        "backbone.fpn.extra_blocks.p7": "neck.fpn_convs.4.conv",
        "rpn.head.conv.0.0": "rpn_head.rpn_conv",
        "rpn.head.cls_logits": "rpn_head.rpn_cls",
        "rpn.head.bbox_pred": "rpn_head.rpn_reg",
        "roi_heads.box_head.fc6": "roi_head.bbox_head.shared_fcs.0",
        "roi_heads.box_head.fc7": "roi_head.bbox_head.shared_fcs.1",
        "roi_heads.box_predictor.cls_score": "roi_head.bbox_head.fc_cls",
        "roi_heads.box_predictor.bbox_pred": "roi_head.bbox_head.fc_reg",
        "head.classification_head.cls_logits": "bbox_head.retina_cls",
        "head.regression_head.bbox_reg": "bbox_head.retina_reg",
    }
    for name, array in state.items():
        for old, new in words.items():
            name = name.replace(old, new)
        for level in range(4):
            name = name.replace(f"backbone.fpn.inner_blocks.{level}.0", f"neck.lateral_convs.{level}.conv")
            name = name.replace(f"backbone.fpn.layer_blocks.{level}.0", f"neck.fpn_convs.{level}.conv")
            name = name.replace(f"head.classification_head.conv.{level}.0", f"bbox_head.cls_convs.{level}.conv")
            name = name.replace(f"head.regression_head.conv.{level}.0", f"bbox_head.reg_convs.{level}.conv")
        out[name] = array
    if dense:
        return with_foreground_first(out, "bbox_head.retina_cls", "", sizes_first=False)
    return with_foreground_first(out, "roi_head.bbox_head.fc", "", sizes_first=False)


def with_foreground_first(state, classes, boxes, *, sizes_first):
    """The outputs with the background last or absent, and perhaps with the anchors of a cell in another order."""
    out = dict(state)
    for name, array in state.items():
        if name.endswith(("cls_score.weight", "cls_score.bias", "fc_cls.weight", "fc_cls.bias")) and "roi" in name:
            out[name] = np.roll(array, -1, axis=0)
        elif name.endswith(("bbox_pred.weight", "bbox_pred.bias", "fc_reg.weight", "fc_reg.bias")) and "roi" in name:
            out[name] = array[4:]
        elif name.startswith(classes) and "roi" not in name:
            cells = array.reshape(RATIOS, SIZES, len(NAMES) + 1, *array.shape[1:])[:, :, 1:]
            cells = cells.swapaxes(0, 1) if sizes_first else cells
            out[name] = cells.reshape(-1, *array.shape[1:])
        elif boxes and name.startswith(boxes):
            cells = array.reshape(RATIOS, SIZES, 4, *array.shape[1:])
            out[name] = cells.swapaxes(0, 1).reshape(array.shape)
    return out


@pytest.mark.parametrize("rename", [as_detectron2, as_mmdetection])
@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
def test_other_families_are_the_same_numbers_in_another_order(kind, rename):
    state = state_of(kind, 50, 1, False)
    wanted, found = recognise(state), recognise(rename(state))
    assert found.family == rename.__name__.removeprefix("as_")
    assert (found.kind, found.classes) == (wanted.kind, wanted.classes) == (f"detectors.{kind}", len(NAMES))
    assert found.arrays.keys() == wanted.arrays.keys()
    for name, array in wanted.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)


def test_conventions_that_change_answers(tmp_path):
    def config_of(kind, rename):
        path = tmp_path / f"{kind}_{rename.__name__}.pth"
        torch_writer.save(path, rename(state_of(kind, 50, 1, False)))
        return published.load(path, classes=NAMES)[0].detector.config

    tv, d2, mm = (config_of("faster_rcnn", rename) for rename in (dict, as_detectron2, as_mmdetection))
    assert (tv.compat.roi_align_aligned, tv.compat.anchor_rounded, tv.compat.roi_align_adaptive) == (False, True, False)
    assert tv.head.smooth_l1_beta == tv.rpn.smooth_l1_beta == 1 / 9
    assert d2.backbone.stride_in_1x1 and d2.pixels.std == (1.0, 1.0, 1.0) and d2.compat.roi_align_adaptive
    assert not mm.backbone.stride_in_1x1 and mm.pixels.std == (58.395, 57.12, 57.375) and mm.compat.roi_align_adaptive
    assert {tv.compat.padding, d2.compat.padding, mm.compat.padding} == {"seen"}
    dense = config_of("retinanet", as_mmdetection)
    assert dense.compat.padding == config_of("retinanet", as_detectron2).compat.padding == "seen"
    assert dense.neck.extra_relu is False and dense.neck.extra == "conv_p5"
    assert config_of("retinanet", dict).postprocess.max_detections == 300
    assert config_of("retinanet", dict).loss.box_loss == "smooth_l1"


def test_torchvisions_second_retinanet_is_trained_with_generalized_iou(tmp_path):
    torch_writer.save(tmp_path / "detector.pth", state_of("retinanet", 50, 2, False))
    config = published.load(tmp_path / "detector.pth", classes=NAMES)[0].detector.config
    assert (config.head.norm, config.loss.box_loss) == ("group", "giou")


def test_cocos_ninety_numbers_become_its_eighty_classes(tmp_path):
    state = reference.random_state_dict("faster_rcnn", 18, 1, 91, 7, **NARROW)
    torch_writer.save(tmp_path / "coco.pth", state)
    loaded, _ = published.load(tmp_path / "coco.pth")
    assert len(loaded.detector.classes) == 80 and loaded.detector.classes[11] == "stop sign"
    theirs = state["roi_heads.box_predictor.cls_score.bias"]
    mine = np.asarray(loaded.params["head"]["logits"]["bias"])
    np.testing.assert_array_equal(mine[[0, 11, 79, 80]], theirs[[1, 13, 90, 0]])
    assert "Of 90 outputs the 80 that COCO has classes for are kept." in loaded.notes
    assert loaded.config.backbone.eps == 1e-5  # torchvision has no such weights over a ResNet-18


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: state.pop("rpn.head.bbox_pred.bias"), "rpn/deltas/bias is missing"),
        (lambda state: state.update({"mask.head.weight": np.ones(3)}), "mask.head.weight is not used"),
        (lambda state: state.update({"backbone.body.conv1.weight": np.ones((16, 3, 5, 5))}), "has the shape"),
        (lambda state: state.pop("roi_heads.box_predictor.cls_score.weight"), "lack"),
        (
            lambda state: [state.pop(name) for name in list(state) if ".layer3.1." in name],
            r"residual network with \(2, 2, 1, 2\) blocks",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, spoil, words):
    state = state_of("faster_rcnn", 18, 1, False)
    spoil(state)
    torch_writer.save(tmp_path / "detector.pth", state)
    with pytest.raises(WeightsError, match=words):
        published.load(tmp_path / "detector.pth", classes=NAMES)


def test_names_are_wanted_where_the_number_says_nothing(tmp_path):
    torch_writer.save(tmp_path / "detector.pth", state_of("faster_rcnn", 18, 1, False))
    with pytest.raises(
        WeightsError, match=r"^detector.pth: The file has 4 classes and no names.*jaxkd convert FILE --classes"
    ):
        published.load(tmp_path / "detector.pth")
    with pytest.raises(WeightsError, match=r"4 classes, and 1 names"):
        published.load(tmp_path / "detector.pth", classes=["cat"])
    with pytest.raises(ConfigError, match="each has to be there, and once"):
        published.load(tmp_path / "detector.pth", classes=["cat", "dog", "cat", "hen"])


def test_the_files_own_names_are_taken(tmp_path):
    state, path = as_mmdetection(state_of("faster_rcnn", 50, 1, False)), tmp_path / "epoch_12.pth"

    def load(meta, classes=()):
        torch_writer.save(path, {"meta": meta, "state_dict": state, "optimizer": {}})
        return published.load(path, classes=classes)

    loaded, report = load({"dataset_meta": {"classes": NAMES, "palette": [(1, 2, 3)]}})
    assert loaded.detector.classes == NAMES and "in state_dict" in report
    assert "The classes' names are the file's own." in loaded.notes
    loaded, _ = load({"CLASSES": NAMES}, classes=("a", "b", "c", "d"))
    assert loaded.detector.classes == ("a", "b", "c", "d")
    assert "The file calls its classes cat, dog, cow and 1 more; the given names are taken." in loaded.notes
    with pytest.raises(WeightsError, match=r"4 classes and 2 names \(cat, dog\) for them"):
        load({"CLASSES": NAMES[:2]})


def test_every_array_of_the_file_is_accounted_for(tmp_path):
    """Matched, named as no leaf, or named as not used."""
    state = state_of("faster_rcnn", 18, 1, True)
    content = {"model": {f"net.{name}": array for name, array in state.items()}, "ema": state, "rng": np.ones(3)}
    torch_writer.save(tmp_path / "all.pth", content)
    loaded, report = published.load(tmp_path / "all.pth", classes=NAMES)
    rows = report.splitlines()
    matched = int(rows[0].split()[2])
    assert rows[0] == f"torchvision faster_rcnn: {matched} leaves matched under net. in model" == loaded.notes[0][:-1]
    unused = [row.split()[-1] for row in rows if row.startswith("unused ")]
    idle = [row.split()[-1] for row in rows if row.startswith("no leaf ")]
    assert unused == ["rng", *(f"ema.{name}" for name in state)] or unused == [
        *(f"ema.{name}" for name in state),
        "rng",
    ]
    assert all(name.endswith("num_batches_tracked") for name in idle)
    assert matched + len(idle) + len(unused) == 2 * len(state) + 1


def test_one_leaf_under_two_names_is_refused(tmp_path):
    state = state_of("faster_rcnn", 18, 1, False)
    state["rpn.head.conv.weight"] = state["rpn.head.conv.0.0.weight"]
    with pytest.raises(
        WeightsError, match=r"rpn\.head\.conv\.0\.0\.weight and rpn\.head\.conv\.weight, which stand for one"
    ):
        recognise(state)


def test_a_norm_of_two_widths_is_refused(tmp_path):
    state = state_of("faster_rcnn", 18, 1, False)
    state["backbone.body.bn1.running_var"] = np.array(1, np.float32)
    torch_writer.save(tmp_path / "detector.pth", state)
    with pytest.raises(WeightsError, match=r"^detector\.pth: .* backbone/bn1/var has the shape \(\) where \(16,\) is"):
        published.load(tmp_path / "detector.pth", classes=NAMES)


def test_odd_shapes_end_in_a_sentence():
    state = state_of("retinanet", 18, 1, False)
    for name in ("backbone.body.conv1.weight", "head.regression_head.bbox_reg.weight", "backbone.body.bn1.weight"):
        for shape in ((), (4,), (2, 2, 2), (0, 3, 7, 7), (1, 1, 1, 1)):
            with contextlib.suppress(WeightsError):  # or none, where the strict match will refuse
                recognise(state | {name: np.ones(shape, np.float32)})


def test_a_backbone_is_no_detector(tmp_path):
    state = {
        name.removeprefix("backbone.body."): array
        for name, array in state_of("faster_rcnn", 18, 1, False).items()
        if name.startswith("backbone.body.")
    }
    torch_writer.save(tmp_path / "resnet.pth", state)
    with pytest.raises(WeightsError, match=r"holds a backbone \(resnet\) and no detector"):
        published.load(tmp_path / "resnet.pth")


@pytest.mark.parametrize(("kind", "depth", "version"), [case[:3] for case in CASES])
def test_torchvision_itself_finds_the_same(kind, depth, version, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    pytest.importorskip("torchvision", reason="torchvision is not installed: nothing to compare with")
    state = reference.random_state_dict(kind, depth, version, len(NAMES) + 1, 7)
    model = peer.model_of(kind, depth, version)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, strict=True)
    torch.save(model.state_dict(), tmp_path / "detector.pth")
    loaded, _ = published.load(tmp_path / "detector.pth", classes=NAMES)
    detector, batch = loaded.detector, batch_of(picture())

    @jax.jit
    def look(params):
        return detector.features(params, batch).neck, detector.detect(params, batch)

    levels, found = jax.device_get(look(loaded.params))
    stages, detections = peer.stages_of(kind, model, picture())
    for index, (mine, theirs) in enumerate(zip(levels, stages["pyramid"], strict=True)):
        assert_near(np.moveaxis(mine, -1, 1), theirs, f"level {index}")
    valid = found.valid[0]
    mine = found.boxes[0][valid], found.scores[0][valid], found.labels[0][valid] + 1
    assert len(mine[0]) == len(detections[0]) > 20
    # torchvision's RetinaNet keeps boxes that clipping left without area, which here are no detections.
    sized = (detections[0][:, 2:] > detections[0][:, :2]).all(1)
    clear = sized & (detections[1] > detections[1].min() + 1e-4)  # the last ones' order is rounding
    assert clear.sum() > 20
    assert reference.unmatched(mine, [part[clear] for part in detections]) == 0


def test_torchvision_itself_has_the_same_box_losses(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    pytest.importorskip("torchvision", reason="torchvision is not installed: nothing to compare with")
    from torchvision.models.detection._utils import BoxCoder

    draw = np.random.default_rng(0)
    corners, sides = draw.uniform(0, 100, (2, 40, 2)), draw.uniform(5, 60, (2, 40, 2))
    anchors, truth = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    deltas = draw.normal(0, 0.5, (40, 4)).astype(np.float32)
    targets = box_ops.encode(jnp.asarray(truth), jnp.asarray(anchors))
    for version in (1, 2):
        torch_writer.save(tmp_path / "detector.pth", state_of("retinanet", 50, version, False))
        detector = published.load(tmp_path / "detector.pth", classes=NAMES)[0].detector
        everywhere = jnp.ones((1, 40), bool)
        regions = regions_of(anchors).replace(deltas=targets[None], positive=everywhere, valid=everywhere)
        predictions = Predictions(logits=jnp.zeros((1, 40, len(NAMES))), deltas=jnp.asarray(deltas)[None, :, None])
        head = peer.model_of("retinanet", 50, version).head.regression_head
        head.box_coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        wanted = head.compute_loss(
            [{"boxes": torch.from_numpy(truth)}],
            {"bbox_regression": torch.from_numpy(deltas)[None]},
            [torch.from_numpy(anchors)],
            [torch.arange(40)],
        )
        np.testing.assert_allclose(detector.losses(predictions, regions)["box"].mean(), float(wanted), rtol=1e-5)


def test_a_model_zoo_pickle_is_read(tmp_path):
    state = as_detectron2(state_of("faster_rcnn", 50, 1, False))
    content = {"model": state, "__author__": "somebody", "matching_heuristics": True}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content, protocol=2))
    loaded, report = published.load(tmp_path / "model_final.pkl", classes=NAMES)
    assert report.startswith("detectron2 faster_rcnn: ") and loaded.config.pixels.std == (1.0, 1.0, 1.0)
    stem = np.asarray(loaded.params["backbone"]["conv1"]["kernel"])
    np.testing.assert_array_equal(stem, state["backbone.bottom_up.stem.conv1.weight"].transpose(2, 3, 1, 0)[:, :, ::-1])
