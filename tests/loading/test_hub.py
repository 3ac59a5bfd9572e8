"""Query detectors from folders of Hugging Face beside the outputs of transformers, and folders that are refused."""

import importlib.util
import json
import re
import shutil

import jax
import numpy as np
import pytest
import query_reference as reference
import safetensors.numpy
import tiny

from jaxkd import config as configs
from jaxkd.class_lists import COCO
from jaxkd.cli import convert, predict
from jaxkd.cli.workdir import open_run
from jaxkd.data import shapes
from jaxkd.detectors.feature_extractor import apply
from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import build, hub, initial, prepare
from jaxkd.predictor import Predictor, load
from jaxkd.train import evaluate, mesh
from jaxkd.types import Batch
from jaxkd.weights import hub_config
from jaxkd.weights.tree import flatten

NAMES = ("motorbike", "sofa", "zebra")  # as the folder has them: they are not COCO's eighty


def batch_of(picture):
    """A batch of one picture that fills its canvas."""
    size = np.array([picture.shape[:2]], np.int32)
    none = np.zeros((1, 0), np.float32)
    return Batch(
        images=picture[None],
        sizes=size,
        boxes=np.zeros((1, 0, 4), np.float32),
        labels=none.astype(np.int32),
        valid=none.astype(bool),
        crowd=none.astype(bool),
        ids=np.zeros(1, np.int32),
        scales=np.ones((1, 2), np.float32),
        real=np.ones(1, bool),
    )


def outputs_of(loaded):
    """A compiled function of a batch: the neck's maps, and what the decoder says."""

    def both(params, batch):
        maps = loaded.detector.features(params, batch).neck
        return maps, apply(loaded.detector.decoder, params["decoder"], maps)

    return lambda batch: jax.device_get(jax.jit(both)(loaded.params, batch))


def assert_alike(outputs, expected, prefix, size):
    """The maps to 1e-4, the logits to 1e-3 and the boxes to 0.05 pixels of what the library says."""
    maps, decoded = outputs
    for level, one in enumerate(maps):
        wanted = expected[f"{prefix}/map_{level}"]
        np.testing.assert_allclose(one[0], wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(decoded.logits[0], expected[f"{prefix}/logits"], atol=1e-3)
    pixels = np.array([size[1], size[0]] * 2)
    np.testing.assert_allclose(decoded.boxes[0] * pixels, expected[f"{prefix}/boxes"] * pixels, atol=0.05)


@pytest.fixture(scope="module", params=reference.STORED)
def folder(request):
    return reference.ROOT / request.param


def test_the_nets_say_what_the_library_says(folder):
    loaded, expected = hub.load(folder), np.load(folder / "outputs.npz")
    assert loaded.detector.classes == NAMES
    outputs = outputs_of(loaded)
    for index, size in enumerate(reference.CANVASES):
        assert_alike(outputs(batch_of(reference.canvas(size))), expected, index, size)


def detections_of(expected, size):
    """Boxes in pixels of a picture of `size`, scores and labels of the pairs of a query and a class, best first."""
    scores = 1 / (1 + np.exp(-expected["picture/logits"]))
    order = np.argsort(-scores.ravel(), kind="stable")
    query, label = np.unravel_index(order, scores.shape)
    centre, half = np.split(expected["picture/boxes"][query], 2, -1)
    corners = np.concatenate((centre - half / 2, centre + half / 2), -1) * np.array([size[1], size[0]] * 2)
    return np.clip(corners, 0, [size[1], size[0]] * 2), scores[query, label], label


def test_a_picture_is_stretched_and_its_detections_are_the_library_s(folder):
    """The picture is larger than the canvas and of another shape, so that it is smoothed as it shrinks."""
    found = load(folder)(reference.canvas(reference.PICTURE))
    boxes, scores, labels = detections_of(np.load(folder / "outputs.npz"), reference.PICTURE)
    inside = np.prod(boxes[:, 2:] - boxes[:, :2], -1) > 0
    boxes, scores, labels = boxes[inside], scores[inside], labels[inside]
    valid = found.valid[0]
    np.testing.assert_allclose(found.scores[0][valid], scores, atol=1e-3)
    gaps = np.abs(np.diff(scores, prepend=2, append=-1))
    apart = np.minimum(gaps[:-1], gaps[1:]) > 1e-4  # no other one may have changed places with it
    assert apart.sum() > 10
    np.testing.assert_allclose(found.boxes[0][valid][apart], boxes[apart], atol=0.05)
    np.testing.assert_array_equal(found.labels[0][valid][apart], labels[apart])


def copied(folder, place, *, config=None, arrays=None, drop=()):
    """A copy of a folder with other fields in config.json and other arrays; None drops one."""
    copy = place / "copy"
    shutil.copytree(folder, copy)
    if config:
        values = json.loads((copy / "config.json").read_text()) | config
        (copy / "config.json").write_text(json.dumps(values))
    if arrays:
        stored = safetensors.numpy.load_file(copy / "model.safetensors") | arrays
        kept = {name: array for name, array in stored.items() if array is not None}
        safetensors.numpy.save_file(kept, copy / "model.safetensors")
    for name in drop:
        (copy / name).unlink()
    return copy


def test_both_generations_of_names(folder, tmp_path):
    """The second one is that of the library's own modules."""
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    fine = folder.name == "d_fine"

    def newer(name):
        name = name.replace("model.encoder.encoder.", "model.encoder.aifi.").replace(".out_proj.", ".o_proj.")
        dense = (lambda match: f".mlp.layers.{int(match[1]) - 1}.") if fine else r".mlp.fc\1."
        return re.sub(r"\.fc([12])\.", dense, name)

    renamed = {newer(name): array for name, array in stored.items()}
    assert sum(name not in stored for name in renamed) > 10
    copy = copied(folder, tmp_path)
    safetensors.numpy.save_file(renamed, copy / "model.safetensors")
    for one, other in zip(*(jax.tree.leaves(hub.load(place).params) for place in (folder, copy)), strict=True):
        np.testing.assert_array_equal(one, other)


D_FINE, RT_DETR = reference.ROOT / "d_fine", reference.ROOT / "rt_detr"
HEAD, GATE = "model.decoder.class_embed.0.weight", "model.decoder.layers.0.gateway.gate.weight"
LABELS = {"id2label": {str(index): f"LABEL_{index}" for index in range(3)}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"drop": ["model.safetensors"]}, "holds no model.safetensors"),
        ({"config": {"model_type": "detr"}}, "of the model type detr; detectors of the types rt_detr, rt_detr_v2 and"),
        ({"config": {"eval_idx": 0}}, "0 as eval_idx, and only -1 is read"),
        ({"config": {"layer_scale": 2}}, "2 as layer_scale, and only 1.0 is read"),
        ({"config": {"normalize_before": True}}, "True as normalize_before"),
        ({"config": {"num_queries": "many"}}, "'many' as num_queries; something like 300 is wanted"),
        ({"config": {"feat_strides": [4, 8, 16]}}, "read are the last stages with attention on the coarsest"),
        ({"config": {"backbone_config": None}}, "has no backbone_config, which is needed"),
        ({"config": {"decoder_n_points": [1, 1, 1]}}, "num_points_scale is not that of"),
        ({"config": {"decoder_n_points": [0, 4, 2]}}, "num_points_scale is not that of"),
        ({"config": {"id2label": {"²": "a"}}}, "config.json has no names for them"),
        ({"config": {"id2label": 7}}, "config.json has no names for them"),
        ({"config": {"encode_proj_layers": 7}}, "7 as encode_proj_layers; something like"),
        ({"config": {"decoder_layers": 3}}, r"do not fit the net .* decoder/edges_2/layer_0/bias is missing"),
        ({"config": {"decoder_ffn_dim": 24}}, "has the shape"),
        ({"config": LABELS}, "The weights have 3 classes, and config.json has no names for them"),
        ({"config": {"id2label": {"0": "a"}}}, "have 3 classes, and config.json has 1 name for them"),
        ({"config": {"id2label": {"0": "a", "1": "a", "2": "b"}}}, "are empty or repeated"),
        ({"arrays": {HEAD: None}}, "no class_embed.0 of the decoder"),
        ({"arrays": {GATE: None}}, "decoder/layer_0/gate/kernel is missing"),
        ({"arrays": {"model.extra.weight": np.zeros(3, np.float32)}}, "model.extra.weight is not used"),
        ({"arrays": {"class_embed.0.weight": np.zeros((3, 16), np.float16)}}, "twice, with other numbers"),
    ],
)
def test_folders_that_are_refused(change, said, tmp_path):
    with pytest.raises(WeightsError, match=said) as error:
        prepare.load_detector(copied(D_FINE, tmp_path, **change))
    assert str(error.value).count("\n") == 0


def test_weights_in_several_files_are_refused(tmp_path):
    copy = copied(D_FINE, tmp_path)
    (copy / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="are in several files; save the model in one"):
        hub.load(copy)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": {"shortest_edge": 640}}, "no height and width"),
        ({"size": {"height": 650, "width": 640}}, "650x640 as size; both sides have to be multiples of 32"),
        ({"size": {"height": 640, "width": 640}, "resample": 3}, "3 as resample, and only 2 is read"),
        ({"size": {"height": 640, "width": 640}, "rescale_factor": 0}, "multiplies pixels by 0"),
        ({"size": {"height": "a", "width": 640}}, "'a' as height; something like 640 is wanted"),
        ({"size": 640}, "has no size, which is needed"),
        ([], "holds no JSON object"),
    ],
)
def test_processors_that_are_refused(values, said, tmp_path):
    copy = copied(D_FINE, tmp_path)
    (copy / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=said):
        hub.load(copy)


def test_without_a_processor_the_published_size_is_taken(tmp_path):
    loaded = hub.load(copied(D_FINE, tmp_path, drop=["preprocessor_config.json"]))
    assert loaded.sizes["buckets"] == ((640, 640),)
    assert any("There is no preprocessor_config.json" in note for note in loaded.notes)


def test_a_normalised_processor(tmp_path):
    copy = copied(D_FINE, tmp_path)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    values = {"size": {"height": 64, "width": 96}, "do_normalize": True, "image_mean": mean, "image_std": std}
    (copy / "preprocessor_config.json").write_text(json.dumps(values))
    pixels = hub.load(copy).detector.config.pixels
    np.testing.assert_allclose([pixels.mean, pixels.std], np.multiply([mean, std], 255), rtol=1e-6)


def test_constants_are_those_of_the_weights(tmp_path):
    """As a published folder says 4 in config.json where its weights are for 8."""
    assert json.loads((D_FINE / "config.json").read_text())["reg_scale"] == 4
    assert float(hub.load(D_FINE).params["decoder"]["reg_scale"][0]) == 6
    dropped = dict.fromkeys(("model.decoder.reg_scale", "model.decoder.up"))
    loaded = hub.load(copied(D_FINE, tmp_path, config={"reg_scale": 8}, arrays=dropped))
    assert float(loaded.params["decoder"]["reg_scale"][0]) == 8 and float(loaded.params["decoder"]["up"][0]) == 0.5


def test_given_classes(tmp_path):
    copy = copied(D_FINE, tmp_path, config=LABELS)
    assert load(copy, classes=("a", "b", "c")).classes == ("a", "b", "c")
    with pytest.raises(WeightsError, match="has 3 classes, and 2 names are given"):
        hub.load(copy, classes=("a", "b"))
    with pytest.raises(ConfigError, match="each has to be there, and once"):
        hub.load(copy, classes=("a", "b", "b"))


def test_classes_are_in_the_order_of_their_numbers_and_coco_s_have_its_names():
    names = ["motorbike" if name == "motorcycle" else name for name in COCO.values()]
    labels = {str(index): names[index] for index in reversed(range(80))}
    assert hub_config._classes(hub_config.Fields({"id2label": labels}, where="")) == tuple(COCO.values())
    few = {str(index): name for index, name in enumerate(reference.CLASSES)}
    assert hub_config._classes(hub_config.Fields({"id2label": few}, where="")) == reference.CLASSES


def test_it_is_saved_and_loaded_as_any_detector(tmp_path):
    assert convert.run([str(RT_DETR), f"--out={tmp_path / 'out'}"]) == 0
    loaded, again = hub.load(RT_DETR), build.load(tmp_path / "out")
    assert again.detector == loaded.detector and again.sizes == loaded.sizes
    for one, other in zip(*(flatten(item.params).values() for item in (loaded, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_commands_take_the_folder(tmp_path):
    file = tmp_path / "picture.png"
    reference.Image.fromarray(reference.canvas(reference.PICTURE)).save(file)
    assert predict.run([f"--workdir={RT_DETR}", str(file), f"--out={tmp_path / 'found'}", "--nodraw"]) == 0
    assert len(json.loads((tmp_path / "found/predictions.json").read_text())["annotations"]) > 10


def test_it_is_scored_on_stretched_pictures():
    run = open_run(str(RT_DETR))
    assert run.recipe is None and run.folder == RT_DETR
    loader_config = prepare.with_training_sizes(run.student, configs.build(tiny.loader()))
    assert loader_config.fit == "stretch" and loader_config.antialias and loader_config.buckets == (reference.SIZE,)
    loaded = hub.load(RT_DETR, classes=shapes.CLASSES)
    source = shapes.load(shapes.Config(count=3, size=(50, 50)))
    scored = evaluate.evaluate_source(loaded.detector, loaded.params, source, loader_config, mesh.make_mesh(1), batch=2)
    assert scored.pictures == 3 and 0 <= scored.summary["AP"] <= 1


def test_a_student_starts_from_it():
    """For its classes with all that it has, for others without the leaves that have a row or a column for each."""
    loaded = hub.load(D_FINE)
    theirs = flatten(loaded.params)
    student = build.student(loaded.config, NAMES)
    params, said = initial.params(student, jax.random.key(0), str(D_FINE))
    for name, leaf in flatten(params).items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)
    assert said == f"The student starts from {D_FINE}: {len(theirs)} leaves."
    other = build.student(loaded.config, ("a", "b"))
    params, said = initial.params(other, jax.random.key(0), str(D_FINE))
    fresh = flatten(other.init(jax.random.key(0)))
    heads = ("logits_0", "logits_1", "selection/logits")
    anew = {f"decoder/{head}/{leaf}" for head in heads for leaf in ("kernel", "bias")} | {"denoising/embedding"}
    for name, leaf in flatten(params).items():
        np.testing.assert_array_equal(leaf, (fresh if name in anew else theirs)[name], err_msg=name)
    assert all(name in said for name in anew) and said.endswith("are for other classes and start from random numbers.")


@pytest.mark.parametrize("has", [True, False])
def test_a_start_with_or_without_denoising(has, tmp_path):
    folder = D_FINE if has else copied(D_FINE, tmp_path, arrays={"model.denoising_class_embed.weight": None})
    loaded = hub.load(folder)
    assert ("denoising" in loaded.params) == has == (loaded.config.denoising.queries > 0)
    config = loaded.config.copy_and_resolve_references()
    config.denoising.queries = 0 if has else 100
    params, said = initial.params(build.student(config, NAMES), jax.random.key(0), str(folder))
    assert ("denoising" in params) != has
    assert ("denoising/embedding is not used" if has else "denoising/embedding starts from random numbers") in said


def test_its_norms_fold():
    loaded = Predictor(hub.load(D_FINE))
    picture = reference.canvas(reference.PICTURE)
    np.testing.assert_allclose(loaded.fold()(picture).scores, loaded(picture).scores, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("family", reference.FAMILIES)
def test_folders_that_the_library_writes_now(family, tmp_path):
    reference.write(tmp_path, family)
    loaded, expected = hub.load(tmp_path), np.load(tmp_path / "outputs.npz")
    outputs = outputs_of(loaded)
    for index, size in enumerate(reference.CANVASES):
        assert_alike(outputs(batch_of(reference.canvas(size))), expected, index, size)
