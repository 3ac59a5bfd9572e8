"""Graph models of TensorFlow.js: arrays by the node that they belong to, and refusals in one sentence."""

import json

import numpy as np
import pytest
import tfjs_writer

from jaxkd.errors import WeightsError
from jaxkd.weights import parts, vit
from jaxkd.weights.read import opened, read

RNG = np.random.default_rng(0)
LEAVES = {
    "convolution": (RNG.normal(size=(3, 3, 3, 4)), RNG.normal(size=4)),
    "convolution_1": (RNG.normal(size=(1, 1, 4, 5)), None),
    "convolution_2": (RNG.normal(size=(3, 3, 5, 2)), RNG.normal(size=2)),
}
SINGLE = {"paddings": np.array([[0, 0], [1, 1]]), "start": np.float32(-1.5)}  # arguments of operations


def saved(folder, *, stored=None, order=1, names=("numbers.bin",), change=None, add="Add"):
    """The path of a model of LEAVES; `order` is that of the manifest, `change` changes the nodes and the groups."""
    nodes, arrays = tfjs_writer.convolutions(LEAVES, add=add)
    entries = [tfjs_writer.entry(name, array, stored=stored) for name, array in arrays.items()]
    entries += [
        tfjs_writer.entry("PartitionedCall/Pad/paddings", SINGLE["paddings"], dtype="int32"),
        tfjs_writer.entry("PartitionedCall/Pad/start", SINGLE["start"]),
    ]
    groups = [tfjs_writer.group(entries[::order], names=names)]
    if change:
        change(nodes, groups)
    path = folder / "model.json"
    tfjs_writer.save(path, nodes, groups)
    return path


def refusal(path, match):
    with pytest.raises(WeightsError, match=match) as refused:
        read(path)
    text = str(refused.value)
    assert str(path) in text and text.isprintable() and text.endswith(".")
    return text


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("add", ["Add", "AddV2", "BiasAdd"])
def test_arrays_have_the_names_of_their_convolutions(tmp_path, order, add):
    arrays = read(saved(tmp_path, order=order, add=add))
    assert set(arrays) == {
        f"PartitionedCall.{name}.{leaf}"
        for name, pair in LEAVES.items()
        for leaf, array in zip(("kernel", "bias"), pair, strict=True)
        if array is not None
    }
    for name, (kernel, bias) in LEAVES.items():
        np.testing.assert_array_equal(arrays[f"PartitionedCall.{name}.kernel"], kernel.astype(np.float32))
        if bias is not None:
            np.testing.assert_array_equal(arrays[f"PartitionedCall.{name}.bias"], bias.astype(np.float32))
    with opened(tmp_path / "model.json") as file:
        assert file.constants == ("PartitionedCall.Pad.paddings", "PartitionedCall.Pad.start")
        assert set(file.names()) == {*arrays, *file.constants}


@pytest.mark.parametrize("names", [("a.bin", "b.bin", "c.bin"), ("shards/a.bin", "shards/b.bin")])
def test_numbers_may_be_in_several_files(tmp_path, names):
    whole = read(saved(tmp_path))
    split = read(saved(tmp_path, names=names))
    assert len(list((tmp_path / names[0]).parent.glob("[abc].bin"))) == len(names)
    for name, array in whole.items():
        np.testing.assert_array_equal(split[name], array)


def test_groups_are_files_of_their_own(tmp_path):
    nodes, arrays = tfjs_writer.convolutions(LEAVES)
    groups = [
        tfjs_writer.group([tfjs_writer.entry(name, array)], names=(f"group{place}.bin",))
        for place, (name, array) in enumerate(arrays.items())
    ]
    tfjs_writer.save(tmp_path / "model.json", nodes, groups)
    np.testing.assert_array_equal(
        read(tmp_path / "model.json")["PartitionedCall.convolution_2.bias"], LEAVES["convolution_2"][1].astype("f4")
    )


def test_halves_become_float32(tmp_path):
    arrays = read(saved(tmp_path, stored="float16"))
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    kernel = LEAVES["convolution"][0].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(arrays["PartitionedCall.convolution.kernel"], kernel)


@pytest.mark.parametrize("stored", ["uint8", "uint16"])
def test_quantised_numbers_are_restored_by_scale_and_minimum(tmp_path, stored):
    """Bytes 0, 3 and 255 of scale .5 and minimum -10 are -10, -8.5 and 117.5."""
    values = np.array([-10.0, -8.5, 117.5])
    quantised = tfjs_writer.entry("a", values, stored=stored, scale=0.5, least=-10.0)
    assert np.frombuffer(quantised[1], stored).tolist() == [0, 3, 255]
    whole = tfjs_writer.entry("n", [7.0, 10.0], dtype="int32", stored="uint8", scale=1.4, least=7.0)
    tfjs_writer.save(tmp_path / "model.json", [], [tfjs_writer.group([quantised, whole])])
    arrays = read(tmp_path / "model.json")
    assert arrays["a"].dtype == np.float32 and set(arrays) == {"a"}
    np.testing.assert_array_equal(arrays["a"], values.astype(np.float32))


def test_what_is_added_may_stand_first_and_control_inputs_do_not_count(tmp_path):
    def change(nodes, groups):
        for node in nodes:
            if "input" in node:
                node["input"] = [f"{name}:0" for name in node["input"]]
            if node["op"] == "Add":
                node["input"] = [*node["input"][::-1], "^PartitionedCall/start"]

    assert "PartitionedCall.convolution.bias" in read(saved(tmp_path, change=change))


def test_a_missing_file_of_numbers_is_named(tmp_path):
    path = saved(tmp_path, names=("a.bin", "b.bin"))
    (tmp_path / "b.bin").unlink()
    assert "b.bin, which is not beside it" in refusal(path, "put that file there")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_numbers_of_another_length_are_refused(tmp_path, change):
    path = saved(tmp_path)
    data = (tmp_path / "numbers.bin").read_bytes()
    (tmp_path / "numbers.bin").write_bytes(change(data))
    assert f"{len(change(data))} in numbers.bin" in refusal(path, f"declares {len(data)} bytes")


MANIFEST = {  # what is wrong, as the fields of the first array, and what is said
    "string": ({"dtype": "string"}, "as string for string, which is not supported"),
    "complex": ({"dtype": "complex64"}, "not supported; store it as float32"),
    "quantised bool": ({"dtype": "bool", "quantization": {"dtype": "uint8", "scale": 1, "min": 0}}, "not supported"),
    "int4": ({"quantization": {"dtype": "int4", "scale": 1, "min": 0}}, "as int4 for float32"),
    "list": ({"dtype": ["float32"]}, "without the text 'dtype'"),
    "no form": ({"quantization": 8}, "an odd form"),
    "no scale": ({"quantization": {"dtype": "uint8", "min": 0}}, "without the finite number 'scale'"),
    "endless": ({"quantization": {"dtype": "uint8", "scale": 1, "min": float("inf")}}, "finite number 'min'"),
    "shape": ({"shape": [-1, 3]}, "a shape that no array has"),
    "no shape": ({"shape": None}, "without a shape"),
    "large": ({"shape": [2**20, 2**20]}, "declares 4398046"),
    "no name": ({"name": ""}, "without a name"),
    "twice": ({"name": "unknown_0"}, "two arrays named unknown_0"),
}


@pytest.mark.parametrize("kind", MANIFEST)
def test_a_manifest_that_is_not_understood_is_refused(tmp_path, kind):
    fields, said = MANIFEST[kind]

    def change(nodes, groups):
        groups[0][0]["weights"][0] |= fields

    refusal(saved(tmp_path, change=change), said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../numbers.bin", "leads out"),
        ("/etc/passwd", "leads out"),
        ("https://host/numbers.bin", "no name of a file"),
        ("..\\numbers.bin", "no name of a file"),
        ("", "leads out"),
        (7, "no name of a file"),
    ],
)
def test_only_files_below_the_model_are_read(tmp_path, name, said):
    def change(nodes, groups):
        groups[0][0]["paths"].append(name)

    refusal(saved(tmp_path, change=change), said)


def test_a_file_of_numbers_belongs_to_one_group(tmp_path):
    refusal(saved(tmp_path, change=lambda nodes, groups: groups.append(groups[0])), "names a file of numbers twice")


def test_an_array_may_be_shared_and_does_not_grow_without_bound(tmp_path):
    kernel, count = np.zeros((1, 1, 1000, 100), np.float32), 20_000

    def graph(copies):
        nodes, arrays = tfjs_writer.convolutions({"convolution": (kernel, None)})
        nodes += [nodes[1] | {"name": f"PartitionedCall/convolution_{number}"} for number in range(1, copies)]
        entries = [tfjs_writer.entry(name, array) for name, array in arrays.items()]
        tfjs_writer.save(tmp_path / "model.json", nodes, [tfjs_writer.group(entries)])
        return tmp_path / "model.json"

    assert set(read(graph(2))) == {"PartitionedCall.convolution.kernel", "PartitionedCall.convolution_1.kernel"}
    refusal(graph(count), f"declares {count * kernel.nbytes} bytes of arrays, more than")


def test_a_graph_whose_biases_are_not_clear_is_refused(tmp_path):
    def add_twice(nodes, groups):
        nodes.append({"name": "Add_9", "op": "Add", "input": ["PartitionedCall/convolution", "unknown_4"]})

    def repeat(nodes, groups):
        nodes.append(next(node for node in nodes if node["op"] == "Conv2D"))

    refusal(saved(tmp_path, change=add_twice), "adds two vectors")
    refusal(saved(tmp_path, change=repeat), "convolution twice")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"images": [], "annotations": [], "categories": []},
        {"format": "layers-model", "modelTopology": {"model_config": {}}, "weightsManifest": []},
        {"modelTopology": {"node": []}},
    ],
)
def test_another_json_file_is_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    refusal(path, "no graph model of TensorFlow.js")
    assert not vit.is_vit(path)  # without a refusal, for detections are read from such files


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 200_000, b"\xff\xfe{}", b'{"a": 1' + b"0" * 10_000 + b"}"])
def test_broken_json_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    refusal(path, "not a sound .json file|no graph model")


def test_a_graph_without_weights_is_refused(tmp_path):
    tfjs_writer.save(tmp_path / "model.json", [], [])
    refusal(tmp_path / "model.json", "a graph without weights")


def test_a_graph_of_no_known_net_is_refused_with_names_of_its_weights(tmp_path):
    with pytest.raises(WeightsError, match=r"names \(PartitionedCall\.convolution\.bias, .* belong to no net"):
        parts.read_net(saved(tmp_path))


def test_any_damage_ends_in_a_sentence_or_in_arrays(tmp_path):
    rng, path = np.random.default_rng(1), saved(tmp_path)
    content, refused = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(32, 127)
        path.write_bytes(bytes(damaged))
        try:
            read(path)
        except WeightsError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < len(str(path)) + 500
    assert refused > 100
