"""Files that end with the maps of a dense detector's head, and how detect.py decodes them."""

import dataclasses

import export_scene
import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import helper

from jaxkd.config import component
from jaxkd.data import shapes
from jaxkd.errors import ConfigError
from jaxkd.export import base, check, folder, raw, standalone
from jaxkd.export.onnx_layout import relaid

LIGHT = {"norm": "frozen_batch", "channels": 16}
HEAD = {"norm": "frozen_batch", "channels": 16, "convs": 1, "reg_max": 4}
RECIPES = {
    "csp": lambda: component(
        "detectors.gfl",
        backbone=component("nets.csp", width=8, norm="frozen_batch"),
        neck=component("nets.sum_pan", channels=16),
        head={**HEAD, "activation": "leaky", "per_level": True, "shared_tower": True},
        postprocess={"score_threshold": 0.0, "max_detections": 20},
    ),
    "mobilenetv4": lambda: component(
        "detectors.gfl",
        backbone=component("nets.mobilenetv4", width=0.25),
        neck=component("nets.light_pan", **LIGHT),
        head={**HEAD, "separable": True, "norm": "batch", "per_level": True},
        postprocess={"score_threshold": 0.0, "max_detections": 20},
    ),
    "retinanet": lambda: tiny.retinanet(norm="frozen_batch", postprocess={"score_threshold": 0.0}),
}
ONNX = {  # the operations of a graph
    "csp": {"AveragePool", "Concat", "LeakyRelu", "MaxPool", "Resize"},
    "mobilenetv4": {"Relu", "Resize"},
    "retinanet": {"MaxPool", "Relu", "Resize"},
}
TFLITE = {
    "csp": {"AVERAGE_POOL_2D", "CONCATENATION", "LEAKY_RELU", "MAX_POOL_2D", "MIRROR_PAD", "RESIZE_BILINEAR"},
    "mobilenetv4": {"RESIZE_NEAREST_NEIGHBOR"},
}


@pytest.fixture(scope="module")
def raws():
    """Each detector with random statistics of its norms, and the file's side of it."""
    return {name: raw.subject(_with_statistics(export_scene.subject(recipe()))) for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def written(raws, tmp_path_factory):
    made = {}

    def write(kind, name, **options):
        key = (kind, name, bool(options))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("raw")
            folder.write(raws[name], kind, made[key], **options)
        return made[key]

    return write


def _with_statistics(subject):
    rng = np.random.default_rng(5)

    def leaf(path, array):
        if array.ndim != 1:
            return array
        noise = rng.uniform(-0.4, 0.4, array.shape).astype(np.float32)
        return np.asarray(array) + noise

    params = jax.device_put(jax.tree.map_with_path(leaf, jax.device_get(subject.loaded.params)))
    return dataclasses.replace(subject, loaded=dataclasses.replace(subject.loaded, params=params))


def _full(count=1):
    """Pictures that fill their canvas, and their sizes."""
    images = np.random.default_rng(2).integers(0, 256, (count, *tiny.SIZE, 3), np.uint8)
    return images, np.array([tiny.SIZE] * count, np.int32)


def _calibration():
    images, sizes = _full(3)
    return [(image[None], size[None]) for image, size in zip(images, sizes, strict=True)]


def _maps(subject, images, sizes):
    """What the head of the detector as it was trained predicts, its norms apart from the convolutions."""
    detector, params = subject.trained.detector, subject.trained.params
    batch = base.batch_of(jax.numpy.asarray(images), jax.numpy.asarray(sizes))
    return [np.asarray(x) for maps in detector.maps(params, detector.features(params, batch), batch) for x in maps]


@pytest.mark.parametrize("name", RECIPES)
def test_an_onnx_graph_has_convolutions_activations_sums_and_resizes(name, raws, written):
    graph = onnx.load(written("onnx", name) / "model.onnx").graph
    always = {"Add", "Cast", "Conv", "Identity", "Transpose"}
    assert {node.op_type for node in graph.node} == always | ONNX[name]
    assert [value.name for value in graph.input] == ["images"]
    assert sum(node.op_type == "Transpose" for node in graph.node) == 1 + len(graph.output)  # at its ends
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in graph.output}
    expected = jax.eval_shape(raws[name].exported, *raws[name].shapes())
    assert shapes == {key: list(value.shape) for key, value in expected.items()}
    assert all(shape[0] == 1 for shape in shapes.values())


@pytest.mark.parametrize("name", TFLITE)
def test_a_tflite_graph_has_them_too_and_in_int8_all_of_it_is(name, written):
    always = {"ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "PAD"}
    found, details = _operations(written("tflite", name))
    assert found == always | {"CAST"} | TFLITE[name]
    found, details = _operations(written("tflite", name, calibration=_calibration()))
    assert found == always | {"QUANTIZE"} | TFLITE[name]
    assert {np.dtype(each["dtype"]).name for each in details if each["name"]} <= {"int8", "uint8", "int32"}


def _operations(place):
    interpreter = Interpreter(
        model_path=str(place / "model.tflite"),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    names = {each["op_name"] for each in interpreter._get_ops_details()}
    return names, interpreter.get_tensor_details()


@pytest.mark.parametrize("name", RECIPES)
def test_folded_norms_give_the_maps_of_the_detector(name, raws, written):
    images, sizes = _full()
    session = onnxruntime.InferenceSession(str(written("onnx", name) / "model.onnx"))
    for found, expected in zip(session.run(None, {"images": images}), _maps(raws[name], images, sizes), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(("kind", "name"), [("onnx", name) for name in RECIPES] + [("tflite", "csp")])
def test_the_script_decodes_what_the_detector_finds(kind, name, raws, written):
    model, (images, sizes) = standalone.Model(written(kind, name)), _full()
    expected = jax.device_get(jax.jit(raws[name].own.function)(images, sizes))
    found = model.run(images, sizes)
    assert int(expected["count"][0]) > 5
    box, score, lost = check.differences(expected, found)
    assert (box < 1e-2, score < 1e-4, lost) == (True, True, 0), (box, score, lost)
    assert model(images[0], least=0.0)[0]["class"] in ("round", "square", "long")


@pytest.mark.parametrize("kind", ["stablehlo", "savedmodel"])
def test_the_other_formats_end_with_maps_too(kind, raws, written):
    images, sizes = _full()
    found = standalone.Model(written(kind, "retinanet")).run(images, sizes)
    expected = jax.device_get(jax.jit(raws["retinanet"].own.function)(images, sizes))
    assert check.differences(expected, found)[2] == 0


def test_an_int8_file_is_near_its_detector(raws, written):
    model, (images, sizes) = standalone.Model(written("tflite", "csp", calibration=_calibration())), _full()
    found = standalone.tflite(str(written("tflite", "csp", calibration=_calibration()) / "model.tflite"))(images=images)
    for level, expected in enumerate(_maps(raws["csp"], images, sizes)[::2]):
        assert np.abs(found[f"logits_{level}"] - expected).max() < 0.1 * np.ptp(expected)
    assert model.run(images, sizes)["count"][0] > 0


def test_a_picture_lies_on_its_mean_colour(raws, written):
    subject, (images, sizes) = raws["csp"], export_scene.pictures(2)
    assert subject.fill == (124, 116, 104)
    canvases = subject.canvases(images, sizes)
    model = standalone.Model(written("onnx", "csp"))
    for image, size, expected in zip(images, sizes, canvases, strict=True):
        picture = image[: size[0], : size[1]]
        np.testing.assert_array_equal(expected[size[0] :], np.broadcast_to(subject.fill, expected[size[0] :].shape))
        canvas, _ = model.prepare(picture)
        assert canvas.shape == expected.shape and canvas[-1, -1].tolist() in ([124, 116, 104], picture[-1, -1].tolist())
    own = raws["csp"].own
    np.testing.assert_array_equal(own.canvases(images, sizes), images)


def test_a_check_shows_what_the_whole_canvas_costs(raws, written):
    source = shapes.load(shapes.Config(count=2, size=(75, 131)))
    found = check.check(raws["csp"], written("onnx", "csp"), source, limit=2)
    assert (found.pictures, found.unequal) == (2, 0)
    assert found.ap_own is not None and abs(found.ap - found.ap_exported) < raws["csp"].tolerance
    assert raws["csp"].on((96, 64)).shapes()[0].shape == (1, 96, 64, 3)


def test_two_stages_have_no_maps_to_end_with(subjects):
    with pytest.raises(ConfigError, match=r"--tail=raw is for detectors of one stage.*not for detectors[.]faster_rcnn"):
        raw.subject(subjects["faster_rcnn"])


def test_decoding_by_hand():
    """One cell of stride 8 on each of two levels, two classes; distributions that are certain of a bin, and deltas."""
    level = {"anchors": [[0.0, 0.0, 8.0, 8.0]], "step": [8.0, 8.0], "unit": 8.0}
    rule = {"code": "sides", "weights": [1, 1, 1, 1], "most_log": 4.0, "levels": [level]}
    rule |= {"score_threshold": 0.5, "candidates": 10, "nms": 0.5, "max_detections": 5}
    logits = np.array([[[[2.0, -2.0], [1.0, -2.0], [-2.0, 3.0]]]], np.float32)
    bins = np.full((1, 1, 3, 4, 3), -50.0, np.float32)
    bins[0, 0, :, [0, 1, 3], 0] = bins[0, 0, 0, 2, 2] = bins[0, 0, 1, 2, 1] = bins[0, 0, 2, 2, 1] = 50.0
    bins[0, 0, :, 3, :2] = 50.0  # half way between 0 and 1
    found = standalone.decode({"logits_0": logits, "boxes_0": bins.reshape(1, 1, 3, 12)}, rule, (8, 24))
    assert found["count"].tolist() == [3] and found["labels"].tolist() == [[1, 0, 0]]
    np.testing.assert_allclose(found["boxes"][0], [[20, 4, 24, 8], [4, 4, 20, 8], [12, 4, 20, 8]], atol=1e-5)
    np.testing.assert_allclose(found["scores"][0], 1 / (1 + np.exp([-3.0, -2.0, -1.0])), rtol=1e-6)
    tight = standalone.decode({"logits_0": logits, "boxes_0": bins.reshape(1, 1, 3, 12)}, rule | {"nms": 0.4}, (8, 24))
    assert tight["labels"].tolist() == [[1, 0]]
    deltas = np.zeros((1, 1, 3, 4), np.float32)
    deltas[0, 0, 2] = [0.5, 0, np.log(2), 9.0]
    found = standalone.decode({"logits_0": logits, "boxes_0": deltas}, rule | {"code": "deltas"}, (8, 40))
    np.testing.assert_allclose(found["boxes"][0], [[16, 0, 32, 8], [0, 0, 8, 8], [8, 0, 16, 8]], atol=1e-5)


def test_transpositions_that_cancel_are_removed_and_others_stay():
    def transposed(x, y, order):
        return helper.make_node("Transpose", [x], [y], perm=order)

    to, back = (0, 3, 1, 2), (0, 2, 3, 1)
    row = onnx.numpy_helper.from_array(np.ones((1, 1, 1, 3), np.float32), "row")
    flat = onnx.numpy_helper.from_array(np.ones(3, np.float32), "flat")
    nodes = [
        transposed("x", "a", to),
        helper.make_node("Conv", ["a", "k"], ["b"]),
        transposed("b", "c", back),
        helper.make_node("Add", ["c", "row"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        transposed("e", "f", to),
        helper.make_node("Conv", ["f", "k"], ["g"]),
        helper.make_node("Mul", ["e", "flat"], ["h"]),
        helper.make_node("Neg", ["x"], ["unused"]),
    ]
    kept, initializers = relaid(nodes, [row, flat], ["g", "h"])
    assert [node.op_type for node in kept] == ["Transpose", "Conv", "Add", "Relu", "Transpose", "Conv", "Mul"]
    assert kept[5].input[0] == kept[3].output[0]
    assert {tensor.name: list(tensor.dims) for tensor in initializers} == {"flat": [3], "row_plane": [1, 3, 1, 1]}
