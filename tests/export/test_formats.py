"""Every format, beside the detector that it was written from: one picture and five through the same file."""

import json
import subprocess
import sys

import cv2
import jax
import numpy as np
import onnx
import pytest
from export_scene import pictures
from PIL import ExifTags, Image

from jaxkd import config as configs
from jaxkd.data import pictures as picture_files
from jaxkd.errors import ConfigError
from jaxkd.export import base, check, folder, standalone
from jaxkd.export import onnx as onnx_format
from jaxkd.train import build, prepare

FORMATS = ("stablehlo", "onnx", "tflite", "savedmodel")


@pytest.fixture(scope="session")
def written(subjects, tmp_path_factory):
    """The folder of a detector in a format, written once."""
    made = {}

    def write(kind, name):
        if (kind, name) not in made:
            place = tmp_path_factory.mktemp(f"{kind}-{name}")
            folder.write(subjects[name], kind, place)
            made[kind, name] = place
        return made[kind, name]

    return write


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, "faster_rcnn") for kind in FORMATS),
        ("stablehlo", "retinanet"),
        ("onnx", "retinanet"),
        ("savedmodel", "retinanet"),
        ("onnx", "mobilenet"),
        ("tflite", "mobilenet"),
    ],
)
def test_a_file_finds_what_its_detector_finds(kind, name, subjects, written):
    run = standalone.Model(written(kind, name)).run
    for count in (1, 5):
        images, sizes = pictures(count)
        expected = jax.device_get(jax.jit(subjects[name].function)(images, sizes))
        found = run(images, sizes)
        assert (expected["count"] > 5).all()
        assert set(found) == set(base.OUTPUTS)
        np.testing.assert_array_equal(found["count"], expected["count"])
        beyond = np.arange(found["labels"].shape[1]) >= found["count"][:, None]
        assert not any(found[name][beyond].any() for name in ("boxes", "scores", "labels"))
        for place in range(count):
            rows = [{key: value[place : place + 1] for key, value in each.items()} for each in (expected, found)]
            box, score, lost = check.differences(*rows)
            assert (box < 1e-2, score < 1e-4, lost) == (True, True, 0), (box, score, lost)


@pytest.mark.parametrize(("name", "suppressions"), [("faster_rcnn", 2), ("retinanet", 1), ("mobilenet", 2)])
def test_onnx_holds_the_standards_suppression_and_depthwise_convolutions(name, suppressions, written):
    nodes = onnx.load(written("onnx", name) / "model.onnx").graph.node
    assert sum(node.op_type == "NonMaxSuppression" for node in nodes) == suppressions
    groups = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "group"]
    assert sum(group > 1 for group in groups) == (17 if name == "mobilenet" else 0)


@pytest.mark.parametrize("kind", ["stablehlo", "onnx", "tflite"])
def test_a_fresh_process_without_jaxkd_runs_the_script(kind, subjects, written, tmp_path):
    place, (height, width) = written(kind, "faster_rcnn"), subjects["faster_rcnn"].size
    picture = np.random.default_rng(0).integers(0, 255, (2 * height - 7, 2 * width, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "one.png"), picture[..., ::-1])
    program = (
        "import sys, runpy; sys.modules['jaxkd'] = None; "
        f"sys.argv = ['detect.py', {str(tmp_path / 'one.png')!r}]; "
        f"runpy.run_path({str(place / 'detect.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    (line,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = standalone.Model(written("stablehlo", "faster_rcnn"))(picture)
    assert line["found"]
    assert [row["class"] for row in line["found"]] == [row["class"] for row in found]
    np.testing.assert_allclose([row["box"] for row in line["found"]], [row["box"] for row in found], atol=0.05)


def test_the_scripts_resize_is_the_loaders(subjects, written):
    """Within rounding of OpenCV's, which training uses; and the canvas is the loader's."""
    rng = np.random.default_rng(0)
    for high, wide in ((37, 60), (200, 150), (64, 96), (3, 90)):
        small = rng.integers(0, 255, (max(high // 8, 1), max(wide // 8, 1), 3), np.uint8)
        picture = cv2.resize(small, (wide, high), interpolation=cv2.INTER_CUBIC)
        canvas, size = standalone.Model(written("stablehlo", "faster_rcnn")).prepare(picture)
        expected = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)
        gap = np.abs(canvas[: size[0], : size[1]].astype(int) - expected)
        assert gap.max() <= 1
        assert not canvas[size[0] :].any()
        assert not canvas[:, size[1] :].any()


def test_int8_finds_blood_cells(tmp_path):
    """The teacher of the quickstart, a third of its size and near its AP, where int8 boxes would halve it."""
    recipe = configs.load_recipe("bccd_teacher")
    subject = base.subject(build.load("assets:bccd_teacher"))
    pairs = check.calibration(subject, prepare.load_source(recipe.data.train), limit=12)
    folder.write(subject, "tflite", tmp_path, calibration=pairs)
    found = check.check(subject, tmp_path, prepare.load_source(recipe.data.val), limit=20)
    floats = 4e-6 * sum(leaf.size for leaf in jax.tree.leaves(subject.loaded.params))
    assert found.megabytes < 0.4 * floats
    assert found.ap > 0.45
    assert abs(found.ap - found.ap_exported) < 0.06


def test_differences_by_hand():
    one = {
        "boxes": np.array([[[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.9, 0.5, 0.0]], np.float32),
        "labels": np.array([[0, 1, 0]], np.int32),
        "count": np.array([2], np.int32),
    }
    moved = one | {"boxes": one["boxes"] + np.float32(0.25), "scores": one["scores"] - np.float32(0.125)}
    assert check.differences(one, one) == (0.0, 0.0, 0)
    assert check.differences(one, moved) == (0.25, 0.125, 0)
    assert check.differences(one, one | {"labels": np.array([[0, 0, 0]], np.int32)}) == (0.0, 0.0, 2)
    assert check.differences(one, one | {"count": np.array([0], np.int32)}) == (0.0, 0.0, 2)
    twice = {key: value[:, [0, 0]] for key, value in one.items() if key != "count"} | {"count": one["count"]}
    once = one | {"count": np.array([1], np.int32)}
    assert check.differences(twice, once) == check.differences(once, twice) == (0.0, 0.0, 1)
    assert check.differences(one, one | {"boxes": np.full_like(one["boxes"], np.nan)}) == (0.0, 0.0, 4)


def test_a_missing_runtime_names_its_line():
    with pytest.raises(ConfigError, match=r"pip install 'jaxkd-detection\[onnx\]'"):
        base.require("onnx", extra="onnx", modules=("json", "no_such_runtime"))


def test_whatever_a_converter_raises_is_one_line(subjects, tmp_path, monkeypatch):
    for error, said in ((MemoryError(), "MemoryError"), (NotImplementedError("a fault.\nIn pages."), "a fault")):
        monkeypatch.setattr(onnx_format, "write", lambda *args, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(ConfigError, match=f"cannot be converted to onnx: {said}[.]$"):
            folder.write(subjects["retinanet"], "onnx", tmp_path)


def test_the_script_reads_pictures_as_training_does(tmp_path):
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    files = {
        "deep.png": (Image.fromarray(rng.integers(0, 65535, (5, 8)).astype(np.uint16)), {"exif": turned}),
        "clear.png": (Image.fromarray(rng.integers(0, 255, (5, 8, 4)).astype(np.uint8)), {}),
        "marked.gif": (Image.fromarray(rng.integers(0, 255, (5, 8)).astype(np.uint8)), {"transparency": 3}),
        "plain.jpg": (Image.fromarray(rng.integers(0, 255, (5, 8, 3)).astype(np.uint8)), {"exif": turned}),
    }
    for name, (picture, options) in files.items():
        picture.save(tmp_path / name, **options)
        np.testing.assert_array_equal(standalone.read(tmp_path / name), picture_files.read(tmp_path / name))


def test_the_size_has_to_be_known(subjects):
    loaded = subjects["retinanet"].loaded
    bare = build.Loaded(loaded.detector, loaded.params, loaded.config, {}, {})
    with pytest.raises(ConfigError, match="--size=HEIGHTxWIDTH"):
        base.subject(bare)
    assert base.subject(bare, size=(32, 64)).size == (32, 64)
    with pytest.raises(ConfigError, match="too large"):
        base.subject(bare, size=(64, 20000))
