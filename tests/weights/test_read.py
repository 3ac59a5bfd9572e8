import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.errors import StorageError, WeightsError
from jaxkd.weights.read import read, read_metadata, save

ARRAYS = {
    "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "a/bias": np.float32(2.5),
    "count": np.arange(3),
}


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_what_is_saved_is_read(tmp_path):
    path = tmp_path / "new" / "weights.safetensors"
    save(path, {**ARRAYS, "jax": jnp.ones(2)}, metadata={"detector": "faster_rcnn"})
    out = read(path)
    assert set(out) == {*ARRAYS, "jax"}
    for name, array in ARRAYS.items():
        assert out[name].shape == np.shape(array) and out[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(out[name], array)
    assert read_metadata(path) == {"detector": "faster_rcnn"}
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]


def test_halves_are_stored_in_half_and_read_as_float32(tmp_path):
    array = np.linspace(-3, 3, 1000, dtype=np.float32)
    save(tmp_path / "half.safetensors", {"x": array, "n": np.arange(2)}, half=True)
    save(tmp_path / "full.safetensors", {"x": array, "n": np.arange(2)})
    save(tmp_path / "brain.safetensors", {"x": jnp.asarray(array, jnp.bfloat16)})
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full.safetensors").stat().st_size
    half, brain = read(tmp_path / "half.safetensors"), read(tmp_path / "brain.safetensors")
    assert half["x"].dtype == brain["x"].dtype == np.float32 and half["n"].dtype == np.int64
    np.testing.assert_array_equal(half["x"], array.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(brain["x"], array, rtol=2**-8)
    with pytest.raises(WeightsError, match=r"big holds numbers too large for float16"):
        save(tmp_path / "big.safetensors", {"big": np.full(2, 1e5, np.float32)}, half=True)


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_npz_is_read(tmp_path, writer):
    writer(tmp_path / "a.npz", **ARRAYS, swapped=np.arange(3, dtype=">f4"), half=np.ones(2, np.float16))
    out = read(tmp_path / "a.npz")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(out[name], array)
    np.testing.assert_array_equal(out["swapped"], [0, 1, 2])
    assert out["swapped"].dtype == out["half"].dtype == np.float32


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,  # a header longer than anything
        struct.pack("<Q", 10**9) + b"{}",
        raw(b"{" * 40),
        raw({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, bytes(8)),
        raw({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        raw(
            {
                "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            bytes(12),
        ),
        raw({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(64)),
        raw({"x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
    ],
    ids=["empty", "endless", "header", "json", "beyond", "size", "overlap", "trailing", "dtype"],
)
def test_broken_safetensors_are_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as refusal:
        read(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_broken_npz_are_refused_in_one_sentence(tmp_path):
    good = tmp_path / "good.npz"
    np.savez(good, x=np.ones((4, 4), np.float32))
    cut, wide, other = tmp_path / "cut.npz", tmp_path / "wide.npz", tmp_path / "other.npz"
    cut.write_bytes(good.read_bytes()[:-40])
    other.write_bytes(b"PK\x03\x04 not a zip")
    buffer = io.BytesIO()
    np.save(buffer, np.ones((4, 4), np.float32))
    with zipfile.ZipFile(wide, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue().replace(b"(4, 4), }    ", b"(4, 40000), }"))
    objects, text = tmp_path / "objects.npz", tmp_path / "text.npz"
    np.savez(objects, x=np.array([{}, None], dtype=object))
    np.savez(text, x=np.array(["a", "b"]))
    for path in (cut, wide, other, objects, text):
        with pytest.raises(WeightsError) as refusal:
            read(path)
        assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def header(shape, *, descr="<f4"):
    """An array file whose header says this, with four bytes of numbers."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header("(-1,)"), "a shape that no array has"),
        (header("(True,)"), "a shape that no array has"),
        (header("(0, 99999999999999999999)"), "a shape that no array has"),
        (header("(" + "1," * 100 + ")"), "a shape that no array has"),
        (header("(2147483648,)"), "declares"),
        (header("(" * 4000 + ")" * 4000), "sound"),
        (header("-" * 9000 + "1"), "nested too deeply"),
        (header("1" + "+1" * 4000), "sound"),
        (header("(1,)", descr="z" * 9000), "sound"),
        (header("(1,)", descr="|O"), "sound"),
        (header("(1,)", descr="<f4,<f4"), "plain numbers"),
        (b"\x93NUMPY\x03\x00" + header("(1,)")[8:], "array format"),
        (b"hello", "sound"),
    ],
)
def test_arrays_of_npz_that_no_writer_made(tmp_path, content, said):
    path = tmp_path / "odd.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(WeightsError, match=said) as refusal:
        read(path)
    text = str(refusal.value)
    assert text.startswith(str(path)) and text.isprintable() and len(text) < len(str(path)) + 300


def test_an_npz_that_would_grow_is_refused_unread(tmp_path):
    path, megabyte = tmp_path / "bomb.npz", 1 << 20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (50 * megabyte,)}
        np.lib.format.write_array_header_1_0(file, shape)
        for _ in range(200):
            file.write(bytes(megabyte))
    assert path.stat().st_size < megabyte
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"declares 2097\d+ bytes of arrays, more than the \d+ allowed"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * megabyte
    finally:
        tracemalloc.stop()


def test_an_npz_of_many_arrays_that_grow_together_is_refused(tmp_path):
    path, megabyte = tmp_path / "bombs.npz", 1 << 20
    np.savez_compressed(path, **{f"x{index}": np.zeros(5 * megabyte, np.float32) for index in range(4)})
    with pytest.raises(WeightsError, match="allowed for its size"):
        read(path)
    np.savez_compressed(path, x=np.zeros(5 * megabyte, np.float32), none=np.zeros((0, 10**6), np.float32))
    assert read(path)["none"].shape == (0, 10**6)


def test_odd_names_of_arrays_are_refused(tmp_path):
    twice, lines, other = tmp_path / "twice.npz", tmp_path / "lines.npz", tmp_path / "lines.safetensors"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(twice, "w") as archive:
        for _ in range(2):
            archive.writestr("x.npy", header("(1,)"))
    with zipfile.ZipFile(lines, "w") as archive:
        archive.writestr("a\nb.npy", header("(1,)"))
    other.write_bytes(raw({"a\nb": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)))
    for path, said in ((twice, "two arrays of one name"), (lines, "no printable text"), (other, "no printable text")):
        with pytest.raises(WeightsError, match=said) as refusal:
            read(path)
        assert str(refusal.value).isprintable()


def test_a_header_of_any_length_is_no_pickle(tmp_path):
    """The length of a header may begin with the byte that a pickle begins with."""
    for length in range(0x80, 0x1080, 0x100):
        text = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length).encode()
        (tmp_path / "a.safetensors").write_bytes(raw(text, bytes(4)))
        assert (tmp_path / "a.safetensors").read_bytes()[0] == 0x80
        np.testing.assert_array_equal(read(tmp_path / "a.safetensors")["x"], [0])


def test_other_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no weights file"):
        read(tmp_path / "missing.npz")
    with pytest.raises(WeightsError, match="of no kind that is read here"):
        read(tmp_path / "weights.onnx")
    with pytest.raises(WeightsError, match=r"written as \.safetensors"):
        save(tmp_path / "weights.npz", {})
    with pytest.raises(WeightsError, match="not a readable"):
        read_metadata(tmp_path / "missing.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save(tmp_path / "file" / "weights.safetensors", ARRAYS)
