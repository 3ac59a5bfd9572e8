"""The form that torch wrote before version 1.6."""

import struct

import numpy as np
import pytest
from test_torch_file import BASE, SMALL, arrays, refusal, same

from jaxkd.weights import torch_legacy
from jaxkd.weights.read import opened, read
from tests import torch_writer
from tests.torch_writer import (
    MAGIC,
    VERSION,
    Call,
    Global,
    LegacyWriter,
    Outside,
    Raw,
    Writer,
    about,
    legacy,
    raw,
    view,
)


def written(tmp_path, content):
    (tmp_path / "old.pth").write_bytes(content)
    return tmp_path / "old.pth"


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ".ckpt"])
def test_every_number_type_and_view_is_read(tmp_path, suffix, byteorder):
    (tmp_path / f"old{suffix}").write_bytes(legacy(arrays(), byteorder=byteorder))
    same(read(tmp_path / f"old{suffix}"), arrays())


def test_storages_may_come_in_any_order(tmp_path):
    same(read(written(tmp_path, legacy(arrays(), order=lambda keys: sorted(keys, reverse=True)))), arrays())


class Python2(LegacyWriter):
    """Writes text as Python 2 did."""

    def encoded(self, value):
        if isinstance(value, str):
            return b"T" + struct.pack("<I", len(value)) + value.encode()
        return super().encoded(value)


def test_files_of_python_2_are_read(tmp_path):
    writer = Python2()
    data = writer.pickle(SMALL)
    keys = Python2().pickle(list(writer.storages))
    content = MAGIC + VERSION + about() + data + keys + b"".join(raw(array) for array in writer.storages.values())
    same(read(written(tmp_path, content)), SMALL)


def test_a_machine_that_says_it_is_big_may_have_written_little(tmp_path):
    """As torch does: its numbers and their counts are little-endian everywhere."""
    content = legacy(SMALL).replace(about(little=True), about(little=False))
    same(read(written(tmp_path, content)), SMALL)


def pieces(value, storages, *, keys=None, little=True):
    """A file with this checkpoint and these storages behind it."""
    keys = list(storages) if keys is None else keys
    head = MAGIC + VERSION + about(little=little) + LegacyWriter().pickle(value) + Writer().pickle(keys)
    return head + b"".join(storages.values())


def stored(key="0", kind="FloatStorage", count=24, part=None, words=6):
    return Outside(("storage", Global("torch", kind), key, "cuda:0", count, part)[:words])


def test_views_of_storages_are_read(tmp_path):
    """The sixth word of a reference, which the first versions used: its name, first number and length."""
    value = {
        "row": view(stored(part=("1", 6, 12)), 6, (6,), (1,)),
        "whole": view(stored(), 0, (4, 6), (6, 1)),
        "short": view(stored(words=5), 0, (2,), (1,)),
        "cuda": view(stored(kind="cuda.FloatStorage", key="2", count=2), 0, (2,), (1,)),
    }
    out = read(written(tmp_path, pieces(value, {"0": raw(BASE), "2": raw(BASE[0, :2])})))
    np.testing.assert_array_equal(out["row"], BASE[2])
    np.testing.assert_array_equal(out["whole"], BASE)
    np.testing.assert_array_equal(out["short"], BASE[0, :2])
    np.testing.assert_array_equal(out["cuda"], BASE[0, :2])
    for odd in (("1", 6, 19), ("1", -1, 2), ("1", 0, -1), ("1", 0), "1", ("1", "0", 1)):
        bad = {"x": view(stored(part=odd), 0, (1,), (1,))}
        text = refusal(written(tmp_path, pieces(bad, {"0": raw(BASE)})))
        assert "past the end of its storage" in text or "odd way" in text
    beyond = {"x": view(stored(part=("1", 20, 4)), 3, (2,), (1,))}
    assert "past the end" in refusal(written(tmp_path, pieces(beyond, {"0": raw(BASE)})))


def test_checkpoints_with_objects_and_other_kinds_of_storages_are_read(tmp_path):
    module = Call(Outside(("module", Global("mine", "Net"), "net.py", "class Net: ...")), ())
    value = {"model": SMALL, "args": Call(Global("argparse", "Namespace"), (), {"lr": 0.1}), "module": module}
    value["complex"] = view(stored("z", "ComplexFloatStorage", 3), 0, (3,), (1,))
    same(read(written(tmp_path, with_last(value, "z", (3).to_bytes(8, "little") + bytes(24)))), SMALL)
    with opened(tmp_path / "old.pth") as found:
        assert found.objects == ("argparse.Namespace", "mine.Net")
        assert found.unread[""]["complex"] == "torch.ComplexFloatStorage"


def with_last(value, key, storage):
    """A file of this checkpoint whose last storage is this one."""
    writer = LegacyWriter()
    data = writer.pickle(value)
    keys = [*writer.storages, key]
    head = MAGIC + VERSION + about() + data + Writer().pickle(keys)
    return head + b"".join(raw(array) for array in writer.storages.values()) + storage


def test_a_whole_module_is_refused_by_its_name(tmp_path):
    module = Raw(LegacyWriter().encoded(("module", Global("mine", "Net"), None, None)) + b"Q)\x81}b")
    assert "holds an object of mine.Net and no weights" in refusal(written(tmp_path, pieces(module, {})))


def test_pickled_tensors_without_torchs_file_around_are_read(tmp_path):
    """pickle.dump(model.state_dict()): each storage is a small file of this form in the pickle."""

    def storage(array):
        small = pieces(stored(count=array.size), {"0": raw(array)})
        return Call(Global("torch.storage", "_load_from_bytes"), (Raw(b"B" + struct.pack("<I", len(small)) + small),))

    value = {"a": view(storage(BASE), 6, (6,), (1,)), "b": view(storage(BASE.T.copy()), 0, (6, 4), (4, 1))}
    (tmp_path / "a.pkl").write_bytes(Writer().pickle(value))
    out = read(tmp_path / "a.pkl")
    np.testing.assert_array_equal(out["a"], BASE[1])
    np.testing.assert_array_equal(out["b"], BASE.T)
    inner = MAGIC + VERSION + about() + Writer().pickle({"x": [0] * 200})
    for content in (inner, MAGIC, b"", b"x"):
        bad = Call(
            Global("torch.storage", "_load_from_bytes"), (Raw(b"B" + struct.pack("<I", len(content)) + content),)
        )
        (tmp_path / "bad.pkl").write_bytes(Writer().pickle({"a": view(bad, 0, (1,), (1,))}))
        assert "sound" in refusal(tmp_path / "bad.pkl")


X = {"x": view(stored(), 0, (4, 6), (6, 1))}
HEAD = MAGIC + VERSION + about()
BROKEN = {
    "version": (MAGIC + b"\x80\x02K\x01." + about(), "magic number and protocol"),
    "magic_alone": (MAGIC, "sound"),
    "no_numbers": (MAGIC + VERSION + b"\x80\x02N.", "how its numbers are stored"),
    "no_pickle": (HEAD, "sound"),
    "no_keys": (HEAD + LegacyWriter().pickle(X), "sound"),
    "keys": (pieces(X, {"0": raw(BASE)}, keys={"0": 1}), "list of storages"),
    "keys_twice": (pieces(X, {"0": raw(BASE)}, keys=["0", "0"]), "list of storages"),
    "numbered_keys": (pieces(X, {"0": raw(BASE)}, keys=[0]), "list of storages"),
    "missing_key": (pieces(X, {}), "no storage 0"),
    "other_key": (pieces(X, {"0": raw(BASE), "1": raw(BASE)}), "a storage 1, which its pickle does not refer to"),
    "short": (pieces(X, {"0": raw(BASE)[:-1]}), "ends before its storage 0"),
    "without_count": (pieces(X, {"0": b"1234"}), "ends before its storage 0"),
    "long": (pieces(X, {"0": raw(BASE) + b"x"}), "goes on for 1 bytes"),
    "count": (pieces(X, {"0": raw(BASE[:2]) + bytes(48)}), "declares 24 numbers for the storage 0 and holds 12"),
    "big_count": (pieces(X, {"0": raw(BASE, byteorder="big")}), "declares 24 numbers"),
    "two_orders": (
        pieces(
            X | {"y": view(stored("1"), 0, (1,), (1,))}, {"0": raw(BASE), "1": raw(BASE, byteorder="big")}, little=False
        ),
        "some of its numbers are little-endian",
    ),
    "huge_count": (pieces({"x": view(stored(count=1 << 62), 0, (1,), (1,))}, {"0": raw(BASE)}), "ends before"),
    "negative_count": (pieces({"x": view(stored(count=-1), 0, (1,), (1,))}, {"0": raw(BASE)}), "odd way"),
    "twice": (pieces({"x": [stored(), stored(count=23)]}, {"0": raw(BASE)}), "twice, and differently"),
    "unknown_kind": (pieces({"x": stored(kind="MyStorage")}, {"0": raw(BASE)}), "unknown kind, MyStorage"),
    "no_kind": (pieces({"x": stored(kind="Size")}, {"0": raw(BASE)}), "for a storage"),
    "odd_reference": (pieces({"x": Outside(("thing", 1))}, {}), "odd way"),
    "text_reference": (pieces({"x": Outside("storage")}, {}), "odd way"),
    "key_of_no_text": (pieces({"x": stored(key=3)}, {"3": raw(BASE)}), "odd way"),
    "long_text": (HEAD + b"\x80\x02X\xff\xff\xff\xff", "expected"),
    "long_bytes": (HEAD + b"\x80\x02\x8e" + struct.pack("<Q", 1 << 40), "expected"),
    "endless_line": (HEAD + b"\x80\x02c" + b"x" * 1000, "newline"),
    "program": (HEAD + b"\x80\x02cposix\nsystem\n(X\x02\x00\x00\x00idtR.", "nothing in it was executed"),
    "program_first": (MAGIC + b"\x80\x02cposix\nsystem\n(X\x02\x00\x00\x00idtR.", "nothing in it was executed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path, name):
    content, expected = BROKEN[name]
    assert expected in refusal(written(tmp_path, content))


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = legacy(SMALL)
    for cut in range(32, len(content), 7):
        assert "sound" in refusal(written(tmp_path, content[:cut]))


def test_long_pickles_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_legacy, "PICKLES_LIMIT", 2000)
    value = {**SMALL, "text": "x" * 3000}
    assert "expected" in refusal(written(tmp_path, legacy(value)))
    monkeypatch.setattr(torch_legacy, "HEADER_INSTRUCTIONS", 5)
    assert "more than 5 instructions" in refusal(written(tmp_path, legacy(SMALL)))


def test_torch_writes_the_same_form(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in SMALL.items()}
    base = torch.arange(24.0).reshape(4, 6)
    tensors |= {"transposed": base.T, "row": base[2], "half": base.half(), "number": torch.tensor(2.5)}
    for protocol in (2, 3, 4, 5):
        path = tmp_path / f"{protocol}.pth"
        torch.save(tensors, path, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
        same(read(path), {name: tensor.float().numpy() for name, tensor in tensors.items()})
    torch_writer.save(tmp_path / "new.pth", SMALL)
    (tmp_path / "old.pth").write_bytes(legacy(SMALL))
    for name in ("new.pth", "old.pth"):
        found = torch.load(tmp_path / name, weights_only=True)
        same({key: tensor.numpy() for key, tensor in found.items()}, SMALL)
