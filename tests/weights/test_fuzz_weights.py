"""Weights files that nobody meant: each ends in a sentence or as a detector, quickly, and nothing in it is executed.

`pytest --hypothesis-profile=fuzz tests/weights/test_fuzz_weights.py` tries 500 of them.
"""

import contextlib
import functools
import io
import pickle
import resource
import sys
import time
import types
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch_writer
import torchvision_reference as reference
from hypothesis import HealthCheck, Phase, settings
from hypothesis import given as fuzzed
from hypothesis import strategies as st
from torch_writer import Call, Global, Raw

from jaxkd.errors import JaxkdError
from jaxkd.loading import build, published

EXAMPLES = max(settings().max_examples, 100) if settings().max_examples > 100 else 60
CLASSES = ("cat", "dog")
SECONDS, GIGABYTE = 5, 1 << 20  # of ru_maxrss, which counts in KiB
EXECUTED = []


@functools.cache
def state_of(kind):
    return reference.random_state_dict(kind, 18, 1, len(CLASSES) + 1, 7, width=2, channels=4, hidden=8)


@pytest.fixture(scope="module", autouse=True)
def ready():
    """A module whose functions tell when they are called, and shapes that are traced once for equal detectors."""
    module = types.ModuleType("told_on")
    module.boom = lambda *_: EXECUTED.append("called")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "told_on", module)
        patch.setattr(build, "param_shapes", functools.cache(build.param_shapes))
        yield


# ---- named arrays with something wrong in them ----

TEXT = st.text("abcw.é/_0 \n", min_size=1, max_size=8)
PREFIXES = st.sampled_from(["module.", "model.", "student.", "_orig_mod.module.", "", "a.b.", "neck.lateral_convs."])
SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)
DTYPES = st.sampled_from(["float16", "float64", "int8", "int64", "bool"])
VALUES = st.sampled_from([np.nan, np.inf, 0.0, -1.0, 1e-30])
EDITS = st.one_of(
    st.tuples(st.just("drop"), st.integers(0, 400), st.none()),
    st.tuples(st.just("rename"), st.integers(0, 400), TEXT),
    st.tuples(st.just("copy"), st.integers(0, 400), TEXT),
    st.tuples(st.just("wrap"), st.integers(0, 400), PREFIXES),
    st.tuples(st.just("wrap all"), st.just(0), PREFIXES),
    st.tuples(st.just("second"), st.just(0), PREFIXES),
    st.tuples(st.just("shape"), st.integers(0, 400), SHAPES),
    st.tuples(st.just("type"), st.integers(0, 400), DTYPES),
    st.tuples(st.just("value"), st.integers(0, 400), VALUES),
)


def edited(state, edits):
    """The state with these edits."""
    out = dict(state)
    for what, index, value in edits:
        names = list(out)
        name = names[index % len(names)] if names else ""
        match what:
            case "drop":
                out.pop(name, None)
            case "rename" | "wrap" if names:
                out[value if what == "rename" else f"{value}{name}"] = out.pop(name)
            case "copy" if names:
                out[f"{name}{value}"] = out[name]
            case "wrap all":
                out = {f"{value}{key}": array for key, array in out.items()}
            case "second":
                out |= {f"{value}{key}": array for key, array in out.items()}
            case "shape" if names:
                out[name] = np.resize(out[name], value) if 0 not in value else np.zeros(value, np.float32)
            case "type" if names:
                out[name] = out[name].astype(value)
            case "value" if names:
                out[name] = np.full_like(out[name], value, dtype=np.float32)
    return out


# ---- checkpoints around them ----

OBJECTS = st.one_of(
    st.builds(
        lambda module, name, state: Call(Global(module, name), ("touch",), state),
        st.sampled_from(["told_on", "posix", "collections", "torch", "numpy", "builtins", "torch._utils"]),
        st.sampled_from(["boom", "system", "OrderedDict", "Size", "dtype", "eval", "_rebuild_tensor_v2", "ndarray"]),
        st.none() | st.just({"a": 1}),
    ),
    st.binary(max_size=12).map(Raw),
    st.sampled_from([Raw(b"\x8f"), Raw(b"(\x91"), Raw(b"}))\x85Ns"), Raw(b"ctold_on\nboom\n)\x81}b"), "text", 3, None]),
)
AROUND = st.sampled_from(["", "model", "state_dict", "ema beside", "two", "deep", "list"])


def checkpoint(state, around, more):
    """The state as programs save it, with other things beside, and how many arrays that are not the state's."""
    beside = {"args": more, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": np.ones(3, np.float32)}}}}
    match around:
        case "":
            return state, 0
        case "model" | "state_dict":
            return {around: state, **beside, "meta": {"CLASSES": CLASSES}}, 1
        case "ema beside":
            return {"model": state, "ema": {"module": dict(state)}, **beside}, 1 + len(state)
        case "two":
            return {"student": state, "teacher": dict(state), **beside}, 1 + len(state)
        case "deep":
            return {"a": {"b": {"c": state}}, **beside}, 1
    return [state, beside], 1


FORMS = ("zip", "legacy", "pickle", "npz", "safetensors", "ckpt")
SUFFIXES = {
    "zip": ".pth",
    "legacy": ".pth",
    "pickle": ".pkl",
    "npz": ".npz",
    "safetensors": ".safetensors",
    "ckpt": ".ckpt",
}


def written(form, state, around, more, protocol):
    """The bytes of a file, and the number of arrays in it."""
    if form == "npz":
        buffer = io.BytesIO()
        np.savez(buffer, **state)
        return buffer.getvalue(), len(state)
    if form == "safetensors":
        return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in state.items()}), len(state)
    value, others = checkpoint(state, around, more)
    if form == "pickle":
        value, others = checkpoint(state, around, None)
        return pickle.dumps(value, protocol), len(state) + others
    if form == "legacy":
        return torch_writer.legacy(value), len(state) + others
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in torch_writer.members(value).items():
            archive.writestr(name, data)
    return buffer.getvalue(), len(state) + others


# ---- bytes that are changed afterwards ----

DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "zero", "repeat"]), st.floats(0, 1), st.binary(min_size=1, max_size=9)
    ),
    max_size=4,
)


def damaged(content, damage):
    for what, share, data in damage:
        place = int(share * len(content))
        end = min(place + len(data), len(content))
        match what:
            case "flip":
                changed = bytes(a ^ b for a, b in zip(content[place:end], data, strict=False))
                content = content[:place] + changed + content[end:]
            case "cut":
                content = content[:place]
            case "insert":
                content = content[:place] + data + content[place:]
            case "zero":
                content = content[:place] + bytes(end - place) + content[end:]
            case "repeat":
                content = content[:place] + content[place:end] * 3 + content[end:]
    return content


def inside(content, damage):
    """An archive the first entry of which is damaged, with sums that fit."""
    source, out = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number, name in enumerate(source.namelist()):
            data = source.read(name)
            archive.writestr(name, damaged(data, damage) if number == 0 else data)
    return out.getvalue()


class File:
    """A file's form and content, how it was made, and the number of its arrays where that is known."""

    def __init__(self, form, content, made, count):
        self.form, self.content, self.made, self.count = form, content, made, count

    def __repr__(self):
        return f"File made of {(self.form, *self.made)}"


@st.composite
def files(draw):
    form, kind = draw(st.sampled_from(FORMS)), draw(st.sampled_from(["faster_rcnn", "retinanet"]))
    edits, around, more = draw(st.lists(EDITS, max_size=3)), draw(AROUND), draw(OBJECTS)
    content, count = written(form, edited(state_of(kind), edits), around, more, draw(st.integers(0, 5)))
    damage, deep = draw(DAMAGE), draw(st.booleans())
    content = inside(content, damage) if deep and form in ("zip", "ckpt", "npz") else damaged(content, damage)
    known = not damage and type(more) is not Raw
    return File(form, content, (kind, edits, around, more, damage, deep), count if known else None)


def tried(path):
    """What became of a file: a sentence or a report; quickly and in little memory."""
    before, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return published.load(path, classes=CLASSES)
    except JaxkdError as error:
        return str(error)
    finally:
        assert time.process_time() - before < SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < GIGABYTE
        assert not EXECUTED


@settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 60,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@fuzzed(files())
def test_any_file_ends_in_a_sentence_or_as_a_detector(tmp_path_factory, file):
    path = tmp_path_factory.mktemp("fuzz") / f"file{SUFFIXES[file.form]}"
    path.write_bytes(file.content)
    found = tried(path)
    if isinstance(found, str):
        assert found.isprintable() and "Traceback" not in found and len(found) < len(str(path)) * 3 + 1000, found
        return
    loaded, report = found
    rows = report.splitlines()
    assert loaded.notes[0] == f"{rows[0].removesuffix('.')}." and all(note.isprintable() for note in loaded.notes)
    listed = sum(row.startswith(("no leaf ", "unused ")) for row in rows)
    if file.count is not None:
        assert int(rows[0].split()[2]) + listed == file.count, report


def test_the_arrays_of_a_sound_file_are_counted(tmp_path):
    """What the test above holds against each detector that it gets."""
    for form in FORMS:
        state = state_of("faster_rcnn")
        content, count = written(form, state, "ema beside" if form in ("zip", "pickle") else "", None, 2)
        path = tmp_path / f"file{SUFFIXES[form]}"
        path.write_bytes(content)
        found = tried(path)
        assert not isinstance(found, str), found
        report = found[1]
        listed = sum(row.startswith(("no leaf ", "unused ")) for row in report.splitlines())
        assert int(report.split()[2]) + listed == count


def test_a_function_of_a_file_would_tell():
    with contextlib.suppress(Exception):
        pickle.loads(b"ctold_on\nboom\n)R.")
    assert EXECUTED and not EXECUTED.clear()
