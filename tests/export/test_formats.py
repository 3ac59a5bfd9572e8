"""Every format, beside the detector that it was written from: one picture and five through the same file."""

import dataclasses
import importlib
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import onnx
import pytest
from export_scene import pictures
from PIL import ExifTags, Image

from jaxkd import config as configs
from jaxkd.data import loader, shapes
from jaxkd.data import pictures as picture_files
from jaxkd.errors import ConfigError, JaxkdError
from jaxkd.export import base, check, folder, standalone
from jaxkd.export import onnx as onnx_format
from jaxkd.loading import build, prepare

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
            # 2.3e-4 was seen: TensorFlow 2.21's sums of a MobileNet of random numbers
            assert (box < 1e-2, score < 5e-4, lost) == (True, True, 0), (box, score, lost)


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


@pytest.fixture
def script(written, monkeypatch, capfd):
    """The script in an export, as a command: its exit code or last words, and what it prints and complains of."""
    file = written("onnx", "faster_rcnn") / "detect.py"
    spec = importlib.util.spec_from_file_location("detect", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["detect.py", *map(str, words)])
        try:
            code = module.main()
        except SystemExit as end:
            code = end.code
        return code, *capfd.readouterr()

    return SimpleNamespace(module=module, call=call)


def test_the_script_as_a_command(script, tmp_path):
    code, out, err = script.call()
    assert (code, out) == (2, "") and err.startswith("usage: detect.py")
    code, out, _ = script.call("--help")
    assert code == 0 and all(word in out for word in ("--least", "--out", "--draw", "65"))
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    cv2.imwrite(str(good), np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8))
    bad.write_bytes(b"no picture")
    code, out, err = script.call("--least=0", f"--draw={tmp_path / 'drawn'}", bad, good, tmp_path / "none.png")
    (line,) = map(json.loads, out.splitlines())
    assert code == 65 and line["picture"] == str(good) and line["found"]
    assert [text.split(":")[1].split()[0] for text in err.splitlines()] == [str(bad), str(tmp_path / "none.png"), "2"]
    (drawn,) = (tmp_path / "drawn").iterdir()
    assert drawn.name == "0002_good.png" and cv2.imread(str(drawn)).shape == (50, 70, 3)
    code, out, err = script.call("--least=1.1", f"--out={tmp_path / 'found.jsonl'}", good)
    assert (code, out, err) == (0, "", "")
    assert json.loads((tmp_path / "found.jsonl").read_text()) == {"picture": str(good), "found": []}


def test_the_script_names_what_has_to_be_installed(script, written, monkeypatch, tmp_path):
    def missing(file):
        raise ModuleNotFoundError("No module named 'onnxruntime'")

    monkeypatch.setitem(script.module.RUNTIMES, "onnx", missing)
    code, _, _ = script.call("one.png")
    assert code == (
        "detect.py: a model of onnx needs its runtime: pip install onnxruntime (No module named 'onnxruntime')"
    )
    program = f"import sys, runpy; sys.modules['PIL'] = None; runpy.run_path({script.module.__file__!r}, run_name=NAME)"
    bare = subprocess.run(
        [sys.executable, "-c", program.replace("NAME", "'__main__'")], capture_output=True, text=True, check=False
    )
    assert (bare.returncode, bare.stdout) == (1, "")
    assert bare.stderr.startswith("detect.py needs NumPy and Pillow: pip install numpy pillow (")
    assert bare.stderr.count("\n") == 1


def test_the_scripts_resize_gives_opencvs_bytes():
    """Of which training's pictures are made: up and down, by halves, odd sides, sides of one pixel, other ratios."""
    rng = np.random.default_rng(0)
    sizes = [(1, 1, 5, 7), (1, 9, 1, 4), (7, 1, 30, 1), (2, 2, 1, 1), (64, 96, 32, 48), (63, 95, 32, 48), (5, 7, 5, 9)]
    sizes += [(40, 60, 10, 15), (33, 47, 33, 47), (480, 640, 320, 427), (97, 61, 800, 503)]
    sizes += [tuple(rng.integers(1, 120, 4).tolist()) for _ in range(120)]
    for high, wide, tall, broad in sizes:
        for picture in (
            rng.integers(0, 256, (high, wide, 3), np.uint8),
            rng.choice([0, 255], (high, wide, 3)).astype(np.uint8),
        ):
            expected = cv2.resize(picture, (broad, tall), interpolation=cv2.INTER_LINEAR)
            found = standalone.resize(picture, tall, broad)
            np.testing.assert_array_equal(found, expected, err_msg=f"{high}x{wide} to {tall}x{broad}")


@pytest.mark.parametrize(("fit", "antialias"), [("keep", False), ("keep", True), ("stretch", False), ("stretch", True)])
def test_the_scripts_canvas_is_the_loaders(fit, antialias, subjects, written):
    subject = subjects["faster_rcnn"]
    sizes = subject.loaded.sizes | {"fit": fit, "antialias": antialias}
    subject = dataclasses.replace(subject, loaded=dataclasses.replace(subject.loaded, sizes=sizes))
    model, config = standalone.Model(written("stablehlo", "faster_rcnn")), check.loader_config(subject)
    model.description = base.describe(subject, kind="stablehlo", file="model.stablehlo")
    rng = np.random.default_rng(1)
    for high, wide in [(64, 96), (1, 300), (300, 2), *rng.integers(1, 200, (40, 2)).tolist()]:
        picture = rng.integers(0, 256, (high, wide, 3), np.uint8)
        canvas, size = model.prepare(picture)
        _, expected = loader.blank_row(picture, config, index=0)
        assert canvas.shape == (*subject.size, 3)
        assert size == tuple(expected.sizes)
        np.testing.assert_array_equal(canvas, expected.images)


class Filed:
    """Drawn shapes of another size than the canvas, as the bytes of files."""

    def __init__(self):
        self.drawn = shapes.load(shapes.Config(count=3, size=(75, 131)))
        self.classes, self.category_ids = self.drawn.classes, self.drawn.category_ids
        self.records, self.repairs, self.annotations = self.drawn.records, self.drawn.repairs, self.drawn.annotations
        self.read, self.reading, self.lacking = self.drawn.read, None, None

    def content(self, index):
        return b"" if index == self.lacking else cv2.imencode(".png", self.read(index)[..., ::-1])[1].tobytes()


def test_a_check_goes_through_the_script_and_its_reading_of_files(subjects, written, monkeypatch):
    place, source = written("onnx", "faster_rcnn"), Filed()
    found = check.check(subjects["faster_rcnn"], place, source, limit=2)
    assert (found.pictures, found.files, found.lost, found.unequal, found.shrunk) == (2, True, 0, 0, 0)
    assert (found.boxes < 1e-2, found.scores < 1e-4, abs(found.ap - found.ap_exported) < 1e-4) == (True, True, True)
    assert found.ap_own is None
    drawn = check.check(subjects["faster_rcnn"], place, source.drawn, limit=2)
    assert (drawn.files, drawn.unequal, drawn.ap_exported) == (False, 0, found.ap_exported)
    read = standalone.read
    monkeypatch.setattr(standalone, "read", lambda name, **options: 255 - read(name, **options))
    other = check.check(subjects["faster_rcnn"], place, source, limit=2)
    assert (other.unequal, other.first_unequal) == (2, source.records[0].file)
    assert other.boxes > found.boxes
    with monkeypatch.context() as patch:
        patch.setitem(standalone.RUNTIMES, "onnx", lambda file: importlib.import_module("no_such_runtime"))
        with pytest.raises(ConfigError, match=r"cannot be run to score it: .*pip install onnxruntime"):
            check.check(subjects["faster_rcnn"], place, source, limit=2)
    source.lacking = 1
    with pytest.raises(JaxkdError, match=f"detect.py cannot read {source.records[1].file}, which jaxkd reads"):
        check.check(subjects["faster_rcnn"], place, source, limit=2)


def test_the_canvas_is_the_bucket_of_most_pictures(subjects):
    loaded = subjects["retinanet"].loaded
    sizes = {"buckets": ((64, 96), (96, 64), (80, 80)), "short": (64,), "long": 96}
    loaded = build.Loaded(loaded.detector, loaded.params, loaded.config, {}, sizes)
    source = shapes.load(shapes.Config(count=6, size=(64, 96)))
    assert check.canvas(loaded, source) == ((64, 96), 6)
    upright = [dataclasses.replace(record, height=131, width=75) for record in source.records[:4]]
    source.records = (*upright, *source.records[4:])
    assert check.canvas(loaded, source) == ((96, 64), 4)


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


def test_a_missing_package_names_its_line():
    with pytest.raises(ConfigError, match=r"pip install 'jaxkd-detection\[onnx\]'"):
        base.require("onnx", extra="onnx", modules=("json", "no_such_runtime"))
    with pytest.raises(ConfigError, match=r"needs no_such_package: pip install no_such_package[.]$"):
        base.require("stablehlo", extra="", modules=("json", "no_such_package"))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("stablehlo", "pip install flatbuffers"),
        ("onnx", r"pip install 'jaxkd-detection\[onnx\]'"),
        ("savedmodel", r"pip install 'jaxkd-detection\[tflite\]'"),
    ],
)
def test_a_package_that_is_missing_on_the_way_is_not_the_detectors_fault(kind, line, subjects, tmp_path, monkeypatch):
    error = ModuleNotFoundError("Please install 'a package' in order to go on.")
    monkeypatch.setattr(folder.module_of(kind), "write", lambda *args: (_ for _ in ()).throw(error))
    with pytest.raises(ConfigError, match=f"Please install 'a package' in order to go on.*: {line}[.]$") as caught:
        folder.write(subjects["retinanet"], kind, tmp_path)
    assert "detector" not in str(caught.value).replace("jaxkd-detection", "")


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


def test_the_script_reads_pictures_as_it_is_told(tmp_path):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 255, (5, 8, 3)).astype(np.uint8)
    Image.fromarray(plain).save(tmp_path / "turned.png", exif=turned)
    np.testing.assert_array_equal(standalone.read(tmp_path / "turned.png", exif="ignore"), plain)
    assert standalone.read(tmp_path / "turned.png").shape == (8, 5, 3)
    clear = rng.integers(0, 255, (5, 8, 4)).astype(np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(standalone.read(tmp_path / "clear.png", fourth="ignore"), clear[..., :3])
    Image.fromarray(np.array([[0, 1000], [2000, 5000]], np.uint16)).save(tmp_path / "deep.png")
    found = standalone.read(tmp_path / "deep.png", levels=(1000, 3000))
    assert found[..., 0].tolist() == [[0, 0], [128, 255]]
    Image.fromarray(np.array([[-1.0, 0.5]], np.float32)).save(tmp_path / "below.tiff")
    with pytest.raises(ValueError, match=r"go from -1 to 0\.5"):
        standalone.read(tmp_path / "below.tiff")


def test_the_size_has_to_be_known(subjects):
    loaded = subjects["retinanet"].loaded
    bare = build.Loaded(loaded.detector, loaded.params, loaded.config, {}, {})
    with pytest.raises(ConfigError, match="--size=HEIGHTxWIDTH"):
        base.subject(bare)
    assert base.subject(bare, size=(32, 64)).size == (32, 64)
    with pytest.raises(ConfigError, match="too large"):
        base.subject(bare, size=(64, 20000))
