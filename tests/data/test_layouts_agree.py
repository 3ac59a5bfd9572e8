"""Real pictures written in four layouts: the same derived recipe, and the same batches to the last bit.

Training is a function of recipe, seed and batches (`tests/train`), so the losses are the same too.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxkd import config as configs
from jaxkd import distillation
from jaxkd.data import loader
from jaxkd.loading import folder as folders

PICTURES = Path(distillation.__file__).parent / "assets" / "bccd"
SPLITS = {"train": 20, "val": 6}


def split(name):
    """The first pictures with their annotations, classes in the order of their names."""
    content = json.loads((PICTURES / f"{name}.json").read_text())
    names = sorted(category["name"] for category in content["categories"])
    labels = {category["id"]: names.index(category["name"]) for category in content["categories"]}
    images = sorted(content["images"], key=lambda image: image["file_name"])[: SPLITS[name]]
    of = {image["id"]: [] for image in images}
    for item in content["annotations"]:
        if item["image_id"] in of:
            of[item["image_id"]].append((labels[item["category_id"]], item["bbox"]))
    return names, [(image, of[image["id"]]) for image in images]


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def copy(image, folder):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PICTURES / "images" / image["file_name"], folder)


def coco(root):
    for name in SPLITS:
        names, pictures = split(name)
        annotations = [
            {"image_id": image["id"], "category_id": 10 + label, "bbox": box}
            for image, objects in pictures
            for label, box in objects
        ]
        for number, item in enumerate(annotations):
            item["id"] = number
        categories = [{"id": 10 + label, "name": text} for label, text in enumerate(names)]
        content = {"images": [image for image, _ in pictures], "annotations": annotations, "categories": categories}
        write(root / name / "_annotations.coco.json", json.dumps(content))
        for image, _ in pictures:
            copy(image, root / name)


def yolo(root):
    for name in SPLITS:
        names, pictures = split(name)
        for image, objects in pictures:
            width, height = image["width"], image["height"]
            lines = [
                f"{label} {(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}\n"
                for label, (x, y, w, h) in objects
            ]
            write(root / "labels" / name / f"{Path(image['file_name']).stem}.txt", "".join(lines))
            copy(image, root / "images" / name)
    write(root / "data.yaml", f"train: images/train\nval: images/val\nnames: {json.dumps(names)}\n")


def voc(root):
    for name in SPLITS:
        names, pictures = split(name)
        for image, objects in pictures:
            items = "".join(
                f"<object><name>{names[label]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
                f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for label, (x, y, w, h) in objects
            )
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
            text = f"<annotation><filename>{image['file_name']}</filename>{size}{items}</annotation>"
            write(root / "BCCD/Annotations" / f"{Path(image['file_name']).stem}.xml", text)
            copy(image, root / "BCCD/JPEGImages")
        stems = "".join(f"{Path(image['file_name']).stem}\n" for image, _ in pictures)
        write(root / "BCCD/ImageSets/Main" / f"{name}.txt", stems)


def imagefolder(root):
    for name in SPLITS:
        names, pictures = split(name)
        rows = [
            {
                "file_name": image["file_name"],
                "objects": {
                    "bbox": [box for _, box in objects],
                    "category": [names[label] for label, _ in objects],
                },
            }
            for image, objects in pictures
        ]
        write(root / name / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        for image, _ in pictures:
            copy(image, root / name)


def derived(layout, folder):
    """The recipes without their data, and the first batches of training."""
    layout(folder)
    options = distillation.options(str(folder), {"method": "tar"})
    data = folders.load(str(folder), split_file=folder / "run" / "split.json")
    recipes = distillation.derive(data, options, Path("run")).recipes
    config = configs.build(recipes["alone"].data.loader)
    batches = loader.train_batches(data.sources["train"], config, seed=0, steps=100, batch=4)
    first = [next(batches) for _ in range(3)]
    batches.close()
    recipes = {name: one.to_dict() for name, one in recipes.items()}
    for one in recipes.values():
        del one["data"]["train"], one["data"]["val"]
    return recipes, first


@pytest.fixture(scope="module")
def of_coco(tmp_path_factory):
    return derived(coco, tmp_path_factory.mktemp("coco"))


@pytest.mark.parametrize("layout", [yolo, voc, imagefolder], ids=lambda layout: layout.__name__)
def test_the_layout_makes_no_difference(layout, of_coco, tmp_path):
    recipes, batches = derived(layout, tmp_path)
    assert recipes == of_coco[0]
    for found, wanted in zip(batches, of_coco[1], strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert any((batch.labels > 0).any() for batch in batches)
