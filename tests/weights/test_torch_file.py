import copy
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.errors import WeightsError
from jaxkd.weights.read import read, save
from tests import torch_writer
from tests.torch_writer import Call, Global, Outside, Writer, members, view

BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
SMALL = {"conv.weight": BASE.reshape(2, 3, 2, 2), "conv.bias": np.ones(2, np.float32)}
MEGABYTE = 1 << 20


def arrays():
    """One array of every number type, and views of one storage."""
    numbers = np.arange(6).reshape(2, 3)
    types = "bool uint8 int8 int16 int32 int64 float16 float32 float64"
    return {
        **{name: numbers.astype(name) for name in types.split()},
        "bfloat16": numbers.astype(jnp.bfloat16),
        "transposed": BASE.T,
        "column": BASE[:, 2],
        "every_other": BASE[::2, 1::2],
        "expanded": np.broadcast_to(np.ones((1, 3), np.float32), (4, 3)),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }


def same(out, wanted):
    assert list(out) == list(wanted)
    for name, array in wanted.items():
        kind = np.float32 if name in ("float16", "bfloat16") else array.dtype
        assert out[name].dtype == kind and out[name].shape == array.shape
        np.testing.assert_array_equal(out[name], array.astype(kind))


def refusal(path):
    """The sentence that refuses the file; quickly and in little memory."""
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 64 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 5
    text = str(caught.value)
    assert caught.value.exit_code == 66
    assert text.startswith(str(path)) and text.isprintable() and len(text) < len(str(path)) + 300
    return text


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_every_number_type_and_view_is_read(tmp_path, suffix, byteorder):
    path = tmp_path / f"weights{suffix}"
    torch_writer.save(path, arrays(), byteorder=byteorder)
    same(read(path), arrays())


def test_views_share_one_storage():
    writer = Writer()
    writer.pickle({"a": BASE.T, "b": BASE[:, 2], "c": BASE.T})
    assert len(writer.storages) == len({id(array.base) for array in (BASE.T, BASE[:, 2])}) == 1


def test_parameters_sizes_and_unsigned_numbers(tmp_path):
    writer = Writer()
    tensor = writer.tensor(BASE)
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (tensor, True, torch_writer.ORDERED))
    raw = Outside(("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", BASE.nbytes))
    words = (raw, 2, (3,), (1,), False, torch_writer.ORDERED, Global("torch", "uint32"))
    unsigned = Call(Global("torch._utils", "_rebuild_tensor_v3"), words)
    size = Call(Global("torch", "Size"), ((4, 6),))
    ordered = Call(Global("collections", "OrderedDict"), (), {"_metadata": {"": {"version": 1}}})
    value = {"parameter": parameter, "unsigned": unsigned}
    value["view"] = view(tensor.arguments[0], 0, size, (0, 1))
    entries = members({**value, "metadata": ordered})
    torch_writer.write(tmp_path / "a.pth", {**entries, "archive/data/0": BASE.tobytes()})
    out = read(tmp_path / "a.pth")
    np.testing.assert_array_equal(out["parameter"], BASE)
    np.testing.assert_array_equal(out["unsigned"], BASE.reshape(-1).view(np.uint32)[2:5])
    np.testing.assert_array_equal(out["view"], np.broadcast_to(BASE[0], (4, 6)))


@pytest.mark.parametrize(
    "checkpoint",
    [
        SMALL,
        {**SMALL, "version": "3", "steps": 7},
        {"state_dict": SMALL, "optimizer": {"state": {0: {"step": 3, "exp_avg": BASE}}}, "epoch": 3, "lr": 0.1},
        {"model": SMALL, "ema": {"conv.weight": BASE}, "best": None},
        {"model_state": SMALL, "size": Call(Global("torch", "Size"), ((1, 2),))},
        {"epoch": 1, "model_state_dict": SMALL},
        {"params": SMALL, "dtype": Global("torch", "float32")},
        {"net": SMALL, "done": True, "names": ["a", ("b", 2)]},
        {"ema": SMALL},
        {**SMALL, "steps": Call(Global("collections", "Counter"), ({"a": 1},))},
    ],
    ids=lambda checkpoint: next(iter(checkpoint)),
)
def test_the_weights_of_a_checkpoint_are_found(tmp_path, checkpoint):
    torch_writer.save(tmp_path / "a.pth", checkpoint)
    same(read(tmp_path / "a.pth"), SMALL)


def test_prefixes_stay(tmp_path):
    torch_writer.save(tmp_path / "a.pth", {"state_dict": {"module.x": BASE, "module.y": BASE}, "hyper": {"lr": 0.1}})
    assert list(read(tmp_path / "a.pth")) == ["module.x", "module.y"]


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    torch_writer.save(tmp_path / "a.pth", {"generator": {"x": 1}, "epoch\n": 3})
    assert "generator, 'epoch\\n'" in refusal(tmp_path / "a.pth")
    torch_writer.save(tmp_path / "list.pth", [BASE])
    assert "no mapping" in refusal(tmp_path / "list.pth")


def model(arrays):
    return {"model": arrays, "__author__": "x", "matching_heuristics": True, "score": np.float32(0.5)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_numpy_arrays_are_read(tmp_path, protocol):
    wanted = {name: array for name, array in arrays().items() if name != "bfloat16"}
    wanted |= {"fortran": np.asfortranarray(BASE), "permuted": BASE.reshape(2, 3, 4).transpose(1, 2, 0)}
    swapped = BASE.astype(">f4")
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(model({**wanted, "swapped": swapped}), protocol))
    same(read(path), {**wanted, "swapped": BASE})
    path.write_bytes(pickle.dumps({"blobs": SMALL}, protocol))
    same(read(path), SMALL)


def test_the_pickles_of_python_2_are_read(tmp_path):
    number = b"cnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(I2\nt%sI00\nU\x08%stb"
    array %= number, np.array([1.5, -2], "<f4").tobytes()
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}U\x05blobs}U\x07conv1_w%sss." % array)
    np.testing.assert_array_equal(read(tmp_path / "a.pkl")["conv1_w"], np.float32([1.5, -2]))


def edited(*, value=SMALL, remove=(), **changes):
    """Entries of a sound file with some of them changed or removed."""
    entries = {**members(value), **{f"archive/{name.replace('__', '/')}": data for name, data in changes.items()}}
    return {name: data for name, data in entries.items() if name not in remove}


def changed_view(offset=0, shape=(2,), strides=(1,), count=24, kind="FloatStorage"):
    storage = Outside(("storage", Global("torch", kind), "0", "cpu", count))
    return edited(value={"x": view(storage, offset, shape, strides)}, data__0=BASE.tobytes())


BROKEN = {
    "missing_entry": (edited(remove=("archive/data/0",)), "no entry data/0"),
    "short_storage": (edited(data__0=bytes(92)), "which has 92 bytes"),
    "long_storage": (edited(data__0=bytes(100)), "which has 100 bytes"),
    "wrong_count": (changed_view(count=1 << 60), "declares"),
    "negative_count": (changed_view(count=-1), "declares"),
    "past_the_end": (changed_view(shape=(25,)), "past the end"),
    "stride_past_the_end": (changed_view(shape=(2,), strides=(24,)), "past the end"),
    "offset_past_the_end": (changed_view(offset=23), "past the end"),
    "huge_stride": (changed_view(shape=(2, 2), strides=(1 << 62, 1)), "shape"),
    "negative_stride": (changed_view(offset=4, shape=(2,), strides=(-1,)), "shape"),
    "negative_offset": (changed_view(offset=-1), "odd offset"),
    "negative_size": (changed_view(shape=(-1, -2), strides=(1, 1)), "shape"),
    "strides_missing": (changed_view(strides=()), "odd offset"),
    "size_bomb": (changed_view(shape=(10 << 20, 1 << 20), strides=(0, 0)), "declares"),
    "small_size_bomb": (changed_view(shape=(5, 1 << 23), strides=(0, 0)), "allowed for its size"),
    "odd_storage": (changed_view(kind="Size"), "for a storage"),
    "other_names_only": ({"archive/weights": b"1"}, "without the one data.pkl"),
    "two_pickles": (edited() | {"other/data.pkl": b"N."}, "without the one data.pkl"),
    "arrays_of_numpy": ({"x.npy": b"\x93NUMPY"}, "without the one data.pkl"),
    "odd_byteorder": (edited(byteorder=b"middle"), "byteorder"),
    "upwards": (edited() | {"archive/../../x": b""}, "out of the archive"),
    "absolute": (edited() | {"/x": b""}, "out of the archive"),
    "backslash": (edited() | {"archive\\..\\x": b""}, "out of the archive"),
    "script": (edited() | {"archive/constants.pkl": b""}, "TorchScript"),
    "name": (edited(value={"a\nb": BASE}), "no printable text"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_archives_are_refused(tmp_path, name):
    entries, expected = BROKEN[name]
    torch_writer.write(tmp_path / "bad.pth", entries)
    assert expected in refusal(tmp_path / "bad.pth")


def test_a_doctored_archive_is_refused(tmp_path):
    good, path = tmp_path / "good.pth", tmp_path / "bad.pth"
    torch_writer.save(good, SMALL)
    content = good.read_bytes()
    for cut in (30, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:cut])
        assert "sound" in refusal(path)
    end = content.index(b"archive/byteorder")
    path.write_bytes(content[: end - 3] + b"\x02" + content[end - 2 :])
    assert "File name in directory" in refusal(path)  # and the long name that the archive claims is cut
    path.write_bytes(content.replace(BASE.tobytes(), BASE[::-1].tobytes()))
    assert "CRC" in refusal(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(good, "a") as archive:
        archive.writestr("archive/data/0", BASE.tobytes())
    assert "twice" in refusal(good)


def test_compressed_entries_are_refused_before_they_grow(tmp_path):
    path = tmp_path / "bomb.pth"
    torch_writer.write(path, edited(data__9=bytes(256 * MEGABYTE)), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < MEGABYTE
    assert "compressed" in refusal(path)


def test_entries_that_overlap_are_refused(tmp_path):
    path = tmp_path / "overlap.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(1000))
        for number in range(99):
            archive.filelist.append(copy.copy(archive.filelist[0]))
            archive.filelist[-1].filename = f"archive/data/{number}"
    assert "longer together than the file" in refusal(path)


def test_a_long_pickle_is_refused_unread(tmp_path):
    torch_writer.write(tmp_path / "long.pth", edited(data_pkl=b"") | {"archive/data.pkl": bytes(65 * MEGABYTE)})
    assert "data.pkl is longer" in refusal(tmp_path / "long.pth")


OTHERS = {
    "tar": (b"x" * 257 + b"ustar\x0000", "newer torch"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", "no torch file"),
    "page": (b"<!DOCTYPE html>", "no torch file"),
    "empty": (b"", "no torch file"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "holds nothing and no weights"),
    "zip": (b"PK\x03\x04 and no more", "sound"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_another_kind_are_refused(tmp_path, name):
    content, expected = OTHERS[name]
    (tmp_path / "other.pth").write_bytes(content)
    assert expected in refusal(tmp_path / "other.pth")


def test_files_are_read_by_what_they_are(tmp_path):
    """Whatever the last letters of their names say."""
    torch_writer.save(tmp_path / "torch.pkl", SMALL)
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"model": SMALL}, 2))
    save(tmp_path / "a.safetensors", SMALL)
    (tmp_path / "a.safetensors").rename(tmp_path / "tensors.bin")
    torch_writer.save(tmp_path / "checkpoint.pth.tar", {"state_dict": SMALL})
    for name in ("torch.pkl", "pickle.pth", "tensors.bin", "checkpoint.pth.tar"):
        out = read(tmp_path / name)
        assert set(out) == set(SMALL)
        for key, array in SMALL.items():
            np.testing.assert_array_equal(out[key], array)


def test_a_pickle_is_refused_where_it_is_no_model(tmp_path):
    path = tmp_path / "other.pkl"
    objects = {"model": {"x": np.array([{}, None], dtype=object)}}
    for content in [pickle.dumps(objects), pickle.dumps({"x": {1}}, 4), pickle.dumps({"x": np.array(["a"])})]:
        path.write_bytes(content)
        assert "no weights by name" in refusal(path)
    for content in [b"", b"text", pickle.dumps(SMALL)[:-20]]:
        path.write_bytes(content)
        assert "sound" in refusal(path)
    long = pickle.dumps(SMALL["conv.weight"], 2).replace(b"K\x02K\x03K\x02K\x02", b"K\x02K\x03K\x02K\x03")
    path.write_bytes(b"\x80\x02}X\x01\x00\x00\x00x" + long[2:-1] + b"s.")
    assert "sound" in refusal(path)


def test_real_files_are_read(shared):
    folder = shared / "weights" / "fastestdet_coco"
    detector, backbone = read(folder / "fastestdet_coco.pth"), read(folder / "shufflenetv2_backbone.pth")
    assert len(detector) == 420 and len(backbone) == 330
    assert detector["backbone.first_conv.0.weight"].shape == backbone["first_conv.0.weight"].shape == (24, 3, 3, 3)
    assert all(np.isfinite(array).all() for array in (*detector.values(), *backbone.values()))


def test_torch_reads_the_same(tmp_path, shared):
    torch = pytest.importorskip("torch")
    torch_writer.save(tmp_path / "a.pth", arrays())
    for path in (tmp_path / "a.pth", *sorted((shared / "weights" / "fastestdet_coco").glob("*.pth"))):
        ours, theirs = read(path), torch.load(path, weights_only=True, map_location="cpu")
        assert set(ours) == set(theirs)
        for name, tensor in theirs.items():
            wanted = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
            np.testing.assert_array_equal(ours[name], wanted.numpy())
