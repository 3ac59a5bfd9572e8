"""What every module of jaxkd.data with a `load` promises; a new source is found by listing the folder."""

import importlib
import pkgutil

import numpy as np
import pytest
from hosted_scene import FIRST, HEADER, PAIR, ROWS, SECOND, write_rows, write_shards
from PIL import Image

from jaxkd import config as configs
from jaxkd import data
from jaxkd.config import component
from jaxkd.data import pictures, split
from jaxkd.data.base import Source, Stored, digest
from jaxkd.errors import JaxkdError

MODULES = {
    found.name: importlib.import_module(f"jaxkd.data.{found.name}") for found in pkgutil.iter_modules(data.__path__)
}
SOURCES = sorted(name for name, module in MODULES.items() if hasattr(module, "load") and hasattr(module, "Config"))


def imagefolder(folder):
    write_rows(folder / "train", ROWS)
    return component("data.imagefolder", root=str(folder))


def parquet(folder):
    write_shards(folder, ROWS)
    return component("data.imagefolder", root=str(folder))


def open_images(folder):
    for name in (FIRST, SECOND):
        Image.new("RGB", (80, 60)).save(folder / f"{name}.jpg")
    (folder / "boxes.csv").write_text(HEADER + PAIR)
    return component("data.open_images", annotations=str(folder / "boxes.csv"), images=str(folder), names="")


def part(folder):
    whole = loaded(component("data.shapes", count=5))
    files = [record.file for record in whole.records]
    split.write(folder / "split.json", split.Split(train=(files[0], files[3]), val=(files[1], files[2], files[4])))
    inner = component("data.shapes", count=5)
    return component("data.split", source=inner, file=str(folder / "split.json"), part="val")


def chosen(_):
    return component("data.only", source=component("data.shapes", count=5), classes=("triangle", "circle"))


SCENES = {
    "assets": lambda _: component("data.coco", limit=5),
    "drawn": lambda _: component("data.shapes", count=5),
    "imagefolder": imagefolder,
    "parquet": parquet,
    "open_images": open_images,
    "part": part,
    "chosen": chosen,
}


def loaded(recipe):
    config = configs.build(recipe)
    return configs.module_of(config).load(config)


def test_the_sources_are_found():
    assert {"coco", "voc", "tfds", "shapes", "imagefolder", "open_images", "split", "only"} <= set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_where_there_is_no_data_it_ends_in_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        assert isinstance(loaded(component(f"data.{name}")), Source)  # what comes with the package
    except JaxkdError as error:
        assert str(error).endswith((".", "?")) and "\n" not in str(error)


@pytest.mark.parametrize("scene", SCENES)
def test_a_source(scene, tmp_path):
    recipe = SCENES[scene](tmp_path)
    source = loaded(recipe)
    assert isinstance(source, Source) and digest(loaded(recipe)) == digest(source)
    assert len(source.classes) == len(source.category_ids) == len(set(source.category_ids)) == len(set(source.classes))
    assert len({record.image_id for record in source.records}) == len(source.records) > 1
    annotations = source.annotations()["annotations"]
    assert [item["image_id"] for item in annotations] == [
        record.image_id for record in source.records for _ in record.boxes
    ]
    assert len({item["id"] for item in annotations} - {0}) == len(annotations)
    for index, record in enumerate(source.records):
        assert record.index == index
        assert len(record.boxes) == len(record.labels) == len(record.crowd)
        assert (record.boxes[:, 2:] > record.boxes[:, :2]).all() and (record.boxes >= 0).all()
        assert (record.boxes[:, 2:] <= [record.width, record.height]).all()
        assert ((record.labels >= 0) & (record.labels < len(source.classes))).all()
        mine = [item for item in annotations if item["image_id"] == record.image_id]
        corners = np.array([item["bbox"] for item in mine]).reshape(-1, 4) @ ADDED
        np.testing.assert_allclose(corners, record.boxes, atol=1e-3)
        assert [item["category_id"] for item in mine] == [source.category_ids[label] for label in record.labels]
        image = source.read(index)
        assert image.dtype == np.uint8 and image.shape == (record.height, record.width, 3)
        if isinstance(source, Stored):
            decoded = pictures.decode(source.content(index), name="", reading=pictures.reading_of(source))
            np.testing.assert_array_equal(decoded, image)


ADDED = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])  # from a corner and sides to two corners
