"""Exported files of detectors with queries, whose pictures are stretched, beside what `jaxkd predict` says."""

import jax
import numpy as np
import pytest
import query_reference as reference

from jaxkd.data import shapes
from jaxkd.errors import ConfigError
from jaxkd.export import base, check, folder, raw, standalone, tflite
from jaxkd.loading import hub
from jaxkd.predictor import Predictor

SIZES = (reference.PICTURE, (40, 200), (64, 96))  # shrinks on both sides, on one, and fills the canvas
CLOSE = (1e-2, 1e-4)  # pixels of a box, and of a score


@pytest.fixture(scope="module")
def query_subjects():
    """The tiny detectors, whose classes are those of drawn shapes."""
    folders = {name: reference.ROOT / name for name in reference.STORED}
    return {name: base.subject(hub.load(place, classes=shapes.CLASSES)) for name, place in folders.items()}


@pytest.fixture(scope="module")
def written(query_subjects, tmp_path_factory):
    """A folder in a format, written once."""
    made = {}

    def write(kind, name):
        if (kind, name) not in made:
            made[kind, name] = tmp_path_factory.mktemp(f"{kind}-{name}")
            folder.write(query_subjects[name], kind, made[kind, name])
        return made[kind, name]

    return write


def in_file(rows, classes):
    """What detect.py says of a picture, as one row of `base.OUTPUTS`."""
    return {
        "boxes": np.array([[row["box"] for row in rows]]),
        "scores": np.array([[row["score"] for row in rows]]),
        "labels": np.array([[classes.index(row["class"]) for row in rows]]),
        "count": np.array([len(rows)]),
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("onnx", name) for name in reference.STORED), ("stablehlo", "d_fine"), ("tflite", "d_fine")],
)
def test_the_script_finds_what_jaxkd_predict_finds(kind, name, query_subjects, written):
    """In the pictures' own pixels."""
    model, loaded = standalone.Model(written(kind, name)), query_subjects[name].loaded
    predictor = Predictor(loaded)
    for size in SIZES:
        picture = reference.canvas((size[0] // 8 * 8, size[1] // 8 * 8))[: size[0], : size[1]]
        expected = predictor(picture)
        rows = in_file(model(picture, least=0.0), loaded.detector.classes)
        wanted = {field: getattr(expected, field) for field in ("boxes", "scores", "labels")}
        wanted["count"] = expected.valid.sum(1)
        box, score, lost = check.differences(wanted, rows)
        assert wanted["count"][0] > 20
        assert (box < CLOSE[0], score < CLOSE[1], lost) == (True, True, 0), (size, box, score, lost)


@pytest.fixture(scope="module")
def three(query_subjects):
    """Three canvases and their sizes, and what the D-FINE says of them."""
    images = np.stack([reference.canvas(reference.SIZE, seed) for seed in range(3)])
    sizes = np.array([reference.SIZE] * 3, np.int32)
    return images, sizes, jax.device_get(jax.jit(query_subjects["d_fine"].function)(images, sizes))


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_several_pictures_go_through_one_file(kind, three, written):
    images, sizes, expected = three
    found = standalone.Model(written(kind, "d_fine")).run(images, sizes)
    np.testing.assert_array_equal(found["count"], expected["count"])
    for place in range(3):
        rows = [{key: value[place : place + 1] for key, value in each.items()} for each in (expected, found)]
        box, score, lost = check.differences(*rows)
        assert (box < CLOSE[0], score < CLOSE[1], lost) == (True, True, 0), (place, box, score, lost)


def test_a_check_stretches_as_the_script_does(query_subjects, written):
    source = shapes.load(shapes.Config(count=2, size=(75, 131)))
    found = check.check(query_subjects["rt_detr"], written("onnx", "rt_detr"), source, limit=2)
    assert (found.pictures, found.unequal, found.shrunk, found.lost, found.ap_own) == (2, 0, 0, 0, None)
    assert found.boxes < CLOSE[0] and abs(found.ap - found.ap_exported) < 1e-4


def test_the_resize_is_described(query_subjects):
    about = base.describe(query_subjects["d_fine"], kind="onnx", file="model.onnx")["picture"]
    assert (about["canvas"], about["fit"], about["antialias"]) == ([64, 96], "stretch", True)
    assert "each side by its own factor" in about["rule"] and "Pillow's BILINEAR" in about["rule"]
    assert "short" not in about and "fill" not in about


def test_half_is_near(query_subjects, three, tmp_path):
    images, sizes, expected = three
    folder.write(query_subjects["d_fine"], "onnx", tmp_path, half=True)
    found = standalone.Model(tmp_path).run(images, sizes)
    box, score, lost = check.differences(expected, found)
    assert (box < 0.5, score < 0.01, lost) == (True, True, 0), (box, score, lost)
    assert found["boxes"].dtype == found["scores"].dtype == np.float32


def test_products_stay_float_in_int8(query_subjects, subjects):
    assert tflite.quantized(query_subjects["d_fine"]) == ("CONV_2D", "DEPTHWISE_CONV_2D")
    assert "FULLY_CONNECTED" in tflite.quantized(subjects["retinanet"])


def test_a_file_cannot_end_with_the_maps_of_their_heads(query_subjects):
    with pytest.raises(ConfigError, match=r"--tail=raw is for detectors of one stage, .* not for detectors\.rt_detr"):
        raw.subject(query_subjects["rt_detr"])
