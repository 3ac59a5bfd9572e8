"""Files whose convolutions and products are of float16, beside those of float32."""

import jax
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from export_scene import pictures
from onnx import TensorProto, helper, numpy_helper

from jaxkd.export import HALF, base, check, folder, raw, standalone
from jaxkd.export.onnx_half import halved
from jaxkd.loading import build


@pytest.fixture(scope="module")
def nanodet():
    """The shipped detector on a small canvas, its file ending with maps."""
    return raw.subject(base.subject(build.load("assets:nanodet"), size=(64, 96)))


@pytest.mark.parametrize("kind", HALF)
def test_a_file_is_half_as_large_and_its_maps_are_near(kind, nanodet, tmp_path):
    maps, sizes, (images, _) = [], [], pictures(1)
    for half in (False, True):
        place = tmp_path / str(half)
        place.mkdir()
        description = folder.write(nanodet, kind, place, half=half)
        maps.append(standalone.RUNTIMES[kind](str(place / description["file"]))(images=images))
        sizes.append((place / description["file"]).stat().st_size)
    assert sizes[1] < 0.51 * sizes[0]
    whole, half = maps
    for name, expected in whole.items():
        assert half[name].dtype == np.float32
        np.testing.assert_allclose(half[name], expected, rtol=0, atol=0.005 * np.ptp(expected))


@pytest.mark.parametrize(("kind", "name"), [("onnx", "faster_rcnn"), ("onnx", "retinanet"), ("tflite", "retinanet")])
def test_detections_are_near(kind, name, subjects, tmp_path):
    images, sizes = pictures(1)
    folder.write(subjects[name], kind, tmp_path, half=True)
    found = standalone.Model(tmp_path).run(images, sizes)
    expected = jax.device_get(jax.jit(subjects[name].function)(images, sizes))
    box, _, lost = check.differences(expected, found)
    assert (expected["count"][0] > 5, box < 1, lost) == (True, True, 0)
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=0.01)
    assert found["boxes"].dtype == found["scores"].dtype == np.float32


def test_a_graph_by_hand():
    """A convolution, its mask, a ReLU and a sum are half; the square, the reduction and the outputs are not."""

    def weights(name, array):
        return numpy_helper.from_array(np.asarray(array, np.float32), name)

    nodes = [
        helper.make_node("Less", ["rows", "height"], ["inside"]),
        helper.make_node("Cast", ["inside"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "kernel"], ["a"]),
        helper.make_node("Mul", ["a", "mask"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Add", ["c", "a"], ["d"]),
        helper.make_node("Mul", ["d", "d"], ["squares"]),
        helper.make_node("ReduceSum", ["squares"], ["sum"]),
        helper.make_node("Conv", ["d", "large"], ["e"]),
        helper.make_node("MatMul", ["sum", "steps"], ["f"]),
        *[helper.make_node("Identity", [name], [f"out_{name}"]) for name in "ef"],
    ]
    constants = [
        weights("kernel", np.ones((2, 3, 1, 1))),
        weights("large", np.full((1, 2, 1, 1), 1e5)),
        weights("steps", np.arange(4)[:, None]),
    ]
    kept, initializers = halved(nodes, constants, ["out_e", "out_f"])
    assert [(node.op_type, *node.output) for node in kept] == [
        ("Less", "inside"),
        ("Cast", "mask"),
        ("Cast", "x_half"),
        ("Conv", "a_half"),
        ("Cast", "mask_half"),
        ("Mul", "b_half"),
        ("Relu", "c_half"),
        ("Add", "d_half"),
        ("Cast", "d"),
        ("Mul", "squares"),
        ("ReduceSum", "sum"),
        ("Conv", "e"),
        ("MatMul", "f"),
        ("Identity", "out_e"),
        ("Identity", "out_f"),
    ]
    assert {tensor.name: tensor.data_type for tensor in initializers} == {
        "large": TensorProto.FLOAT,
        "steps": TensorProto.FLOAT,
        "kernel_half": TensorProto.FLOAT16,
    }


def test_a_tflite_file_makes_float32_of_its_weights_alone(nanodet, tmp_path):
    folder.write(nanodet, "tflite", tmp_path, half=True)
    interpreter = Interpreter(
        model_path=str(tmp_path / "model.tflite"),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    details = {each["index"]: each for each in interpreter.get_tensor_details()}
    operations = interpreter._get_ops_details()
    casts = [each for each in operations if each["op_name"] == "DEQUANTIZE"]
    weights = {each["inputs"][1] for each in operations if each["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D")}
    assert weights == {each["outputs"][0] for each in casts}
    halves = {each["inputs"][0] for each in casts}
    assert halves == {index for index, each in details.items() if each["dtype"] == np.float16}
