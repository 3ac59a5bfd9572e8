"""What a pickle may make the reader do: nothing but to build numbers, text and containers."""

import copyreg
import struct

import numpy as np
import pytest
import torch_writer
from test_torch_file import BASE, SMALL, edited, refusal, same
from torch_writer import Call, Global, Outside, Raw, Writer, members, view

from jaxkd.weights import unpickle
from jaxkd.weights.read import opened, read


def instructions(data):
    """A file whose pickle is `data`, with one sound array beside."""
    return edited(data_pkl=b"") | {"archive/data.pkl": b"\x80\x02" + data + b"."}


def marker(tmp_path):
    return f"touch {tmp_path / 'executed'}"


PROGRAMS = {
    "system": lambda text: Call(Global("posix", "system"), (text,)),
    "system_of_os": lambda text: Call(Global("os", "system"), (text,)),
    "popen": lambda text: Call(Global("subprocess", "Popen"), (text,)),
    "eval": lambda text: Call(Global("builtins", "eval"), (f"__import__('os').system({text!r})",)),
    "eval_python_2": lambda text: Call(Global("__builtin__", "eval"), (f"__import__('os').system({text!r})",)),
    "dotted": lambda text: Call(Global("torch.serialization", "os.system"), (text,)),
    "instance": lambda text: Raw(b"(iposix\nsystem\n"),
    "of_stack": lambda text: Raw(b"\x8c\x05posix\x8c\x06system\x93"),
}
OBJECTS = {
    "getattr": lambda text: Call(Call(Global("builtins", "getattr"), (Global("os", "environ"), "system")), (text,)),
    "attrgetter": lambda text: Call(Call(Global("operator", "attrgetter"), ("system",)), (Global("os", "path"),)),
    "numpy_load": lambda text: Call(Global("numpy", "load"), (text, None, True)),
    "namespace": lambda text: Call(Global("argparse", "Namespace"), (), {"command": text}),
    "module": lambda text: Raw(b"ctorch.nn.modules.conv\nConv2d\n)\x81}b"),
    "with_keywords": lambda text: Raw(b"cx\nY\n)}\x92"),
    "old_instance": lambda text: Raw(b"(I1\nix\nY\n}b"),
    "old_object": lambda text: Raw(b"(cx\nY\nI1\no}b"),
    "newline": lambda text: Raw(b"\x8c\x03a\nb\x8c\x06system\x93)R"),
    "set": lambda text: Raw(b"\x8f(I1\nI2\n\x90"),
    "frozen_set": lambda text: Raw(b"(I1\nI2\n\x91"),
    "deque": lambda text: Raw(b"ccollections\ndeque\n)R(I1\nI2\ne"),
    "mapping": lambda text: Raw(b"ccollections\nUserDict\n)R(I1\nI2\nu"),
    "doubled": lambda text: Raw(b"I1\n2\x86"),
    "nested_key": lambda text: Raw(b"}" + b")" + b"\x85" * 9000 + b"Ns"),
    "long_key": lambda text: Raw(b"}\x8b" + struct.pack("<i", 9000) + b"\x01" * 9000 + b"Ns"),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_file_that_wants_to_run_a_program_is_refused(tmp_path, name, suffix):
    path = tmp_path / f"bad{suffix}"
    value = {"state_dict": {} if suffix == ".pkl" else SMALL, "other": PROGRAMS[name](marker(tmp_path))}
    if suffix == ".pth":
        torch_writer.save(path, value)
    else:
        path.write_bytes(Writer().pickle(value))
    assert "nothing in it was executed" in (text := refusal(path)) and "state_dict" in text
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_beside_the_weights_are_not_read_and_not_made(tmp_path, name):
    path = tmp_path / "a.pth"
    torch_writer.save(path, {"model": SMALL, "other": OBJECTS[name](marker(tmp_path)), "epoch": 3})
    same(read(path), SMALL)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_whole_module_is_refused_by_its_name(tmp_path, suffix):
    module = OBJECTS["module"]("")
    for value, said in ((module, "holds an object of torch"), ({"model": module}, "holds model (an object of torch")):
        torch_writer.save(tmp_path / f"a{suffix}", value)
        assert f"{said}.nn.modules.conv.Conv2d" in (text := refusal(tmp_path / f"a{suffix}"))
        assert "nothing in it was executed" in text


def test_what_is_beside_the_weights_is_counted(tmp_path):
    lost = {"history": Call(Global("mine", "History"), (BASE,)), "kept": BASE[:2], "model": SMALL}
    torch_writer.save(tmp_path / "a.pth", lost)
    with opened(tmp_path / "a.pth") as found:
        assert found.objects == ("mine.History",) and found.lost == 1
        assert set(found.names()) == {"kept", "model.conv.weight", "model.conv.bias"}
        assert found.unread == {"": {"history": "mine.History"}}


def test_what_depends_on_an_object_is_one(tmp_path):
    """A storage of an unknown kind, a tensor of an unknown type, one with a note, and a parameter of it."""
    odd = Outside(("storage", Global("torch", "QInt8Storage"), "9", "cpu", 4))
    plain = Outside(("storage", Global("torch", "FloatStorage"), "0", "cpu", 24))
    typed = (plain, 0, (2,), (1,), False, torch_writer.ORDERED, Global("torch", "float8_e4m3fn"))
    value = {
        "quantised": view(odd, 0, (4,), (1,)),
        "eighth": Call(Global("torch._utils", "_rebuild_tensor_v3"), typed),
        "negative": Call(Global("torch._utils", "_rebuild_tensor_v2"), (*typed[:6], {"neg": True})),
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), (view(odd, 0, (4,), (1,)), True, {})),
        "number": Call(Global("numpy.core.multiarray", "scalar"), (Call(Global("numpy", "dtype"), ("O8",)), "x")),
        "good": view(plain, 0, (2,), (1,)),
    }
    torch_writer.write(tmp_path / "a.pth", {**members(value), "archive/data/0": BASE.tobytes()})
    with opened(tmp_path / "a.pth") as found:
        assert list(found.sets[""]) == ["good"]
        assert found.unread[""] == {
            "quantised": "torch.QInt8Storage",
            "eighth": "torch.float8_e4m3fn",
            "negative": "torch.Tensor, conjugated or negated",
            "parameter": "torch.QInt8Storage",
            "number": "NumPy number of O8",
        }


def test_tensors_of_subclasses_and_of_other_devices_are_read(tmp_path):
    writer = Writer()
    tensor = writer.tensor(BASE)
    kind = Global("mine", "Tensor")
    words = (Global("torch._utils", "_rebuild_tensor_v2"), kind, tensor.arguments, {"note": 1})
    lost = (Global("mine", "rebuild"), kind, (BASE,), {})
    number = Call(Global("numpy", "dtype"), ("f4", False, True), (3, "<", None, None, None, -1, -1, 0))
    blank = Call(Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (0,), "b"))
    array = Call(*(blank.function, blank.arguments), (1, (2,), number, False, Raw(b"U\x08" + bytes(8))))
    value = {
        "subclass": Call(Global("torch._tensor", "_rebuild_from_type_v2"), words),
        "kept": Call(Global("torch._utils", "_rebuild_parameter_with_state"), (tensor, True, {}, {"a": 1})),
        "elsewhere": Call(Global("torch._utils", "_rebuild_device_tensor_from_numpy"), (array, kind, "xla:0", True)),
        "other": Call(Global("torch._tensor", "_rebuild_from_type_v2"), lost),
    }
    torch_writer.write(tmp_path / "a.pth", {**members(value), "archive/data/0": BASE.tobytes()})
    out = read(tmp_path / "a.pth")
    np.testing.assert_array_equal(out["subclass"], BASE)
    np.testing.assert_array_equal(out["kept"], BASE)
    np.testing.assert_array_equal(out["elsewhere"], [0, 0])
    assert "other" not in out


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
NUMBER = b"cnumpy\ndtype\n(U\x02%sI0\nI1\ntR"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
TRICKS = {
    "no_arguments": (REBUILD + b")R", "odd arguments"),
    "many_arguments": (b"ctorch\nSize\n(NNNtR", "odd arguments"),
    "storage_called": (b"ctorch\nFloatStorage\n(U\x01xtR", "an object of torch.FloatStorage"),
    "array_called": (b"cnumpy\nndarray\n(I4\ntR", "an object of numpy.ndarray"),
    "text_called": (b"U\x06system(U\x02idtR", "cannot be called"),
    "state_of_a_name": (REBUILD + b"N}U\x0c__defaults__NsN\x86b", "state of what has none"),
    "class_of_a_mapping": (b"ccollections\nOrderedDict\n)RN}U\x09__class__ctorch\nSize\ns\x86b", "no weights"),
    "class_made": (b"ccollections\nOrderedDict\n)\x81", "no weights"),
    "attributes_of_an_object": (b"cos\npath\n)R}U\x04joinNsb", "an object of os.path"),
    "name_of_any_length": (
        b"X\x00\x02\x00\x00" + b"x" * 512 + b"q\x01h\x01\x93",
        "longer than any",
    ),
    "endless_mappings": (
        b"ccollections\nOrderedDict\nq\x00](" + b"N)\x86" * 300 + b"eq\x010" + b"h\x00h\x01\x85R0" * 100,
        "too much of the same",
    ),
    "endless_texts": (
        b"c_codecs\nencode\nq\x00X\x28\x23\x00\x00" + b"x" * 9000 + b"q\x01U\x06latin1\x86q\x02" + b"h\x00h\x02R0" * 99,
        "too much of the same",
    ),
    "addition": (b"](I1\n\x90", "no set"),
    "extension": (b"\x82\x01", "EXT1"),
    "wide_extension": (b"\x84\x01\x00\x00\x00", "EXT4"),
    "text_id": (b"Pstorage\n", "PERSID"),
    "odd_id": (b"U\x07storageQ", "odd way"),
    "objects": (NUMBER % b"O8", "no mapping"),
    "structure": (NUMBER % b"V8", "no mapping"),
    "structure_state": (NUMBER % b"f4" + b"(I3\nU\x01<N(U\x01at}tb", "structured"),
    "object_type": (b"cnumpy\ndtype\n(ccollections\nOrderedDict\nI0\nI1\ntR", "an object of collections"),
    "array_state": (EMPTY + b"(I1\n(I2\ntNI0\nU\x01xtb", "number type"),
    "array_shape": (EMPTY + b"(I1\n(I-2\nt" + NUMBER % b"f4" + b"I0\nU\x01xtb", "shape"),
    "codec": (b"c_codecs\nencode\n(U\x04abcdU\x03hextR", "an object of _codecs.encode"),
    "odd_mapping": (b"ccollections\nOrderedDict\n(](I1\netR", "odd mapping"),
    "append": (b"}(I1\ne", "no list"),
    "items": (b"](I1\nI2\nu", "no dict"),
    "half_a_pair": (b"}(I1\nu", "no dict"),
    "underflow": (b"R", "never put there"),
    "unmarked": (b"t", "never put there"),
    "unknown_memo": (b"h\x05", "never put there"),
    "long_text": (b"X\xff\xff\xff\xff", "expected"),
    "long_integer": (b"\x8b\xff\xff\xff\x7f", "not enough data"),
    "long_bytes": (b"\x8e" + struct.pack("<Q", 1 << 40), "expected"),
    "long_bytearray": (b"\x96" + struct.pack("<Q", 1 << 40), "expected"),
    "digits": (b"L" + b"9" * 10000 + b"L\n", "digits"),
    "unknown": (b"\xff", "unknown"),
    "unended_line": (b"c" + b"x" * 1000, "newline"),
    "far_memo": (b"Nr\xff\xff\xff\xff0}", "no weights"),
    "deep_lists": (b"]" * 4000 + b"a" * 3999, "no weights"),
    "deep_key": (b"}" + b")" + b"\x85" * 9000 + b"Ns", "no weights"),
    "deep_marks": (b"(" * 9000 + b"N", "no weights"),
    "itself": (b"}q\x00U\x05modelh\x00s", "no weights"),
    "doubling": (b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(200)), "no weights"),
    "endless": (b"N0" * 9000 + b"N", "instructions"),
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_of_the_pickle_are_refused(tmp_path, name, monkeypatch):
    monkeypatch.setattr(unpickle, "INSTRUCTIONS", 10000)
    data, expected = TRICKS[name]
    torch_writer.write(tmp_path / "bad.pth", instructions(data))
    assert expected in refusal(tmp_path / "bad.pth")
    if name not in ("text_id", "odd_id"):
        (tmp_path / "bad.pkl").write_bytes(b"\x80\x02" + data.replace(b"ctorch\nSize", b"cnumpy\nndarray") + b".")
        refusal(tmp_path / "bad.pkl")


def test_the_registry_of_extensions_opens_nothing():
    copyreg.add_extension("posix", "system", 77)
    try:
        with pytest.raises(ValueError, match="EXT1"):
            unpickle.load(b"\x80\x02\x82\x4d.", {}, size=4)
    finally:
        copyreg.remove_extension("posix", "system", 77)
