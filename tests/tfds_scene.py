"""Data sets as TensorFlow Datasets prepares them, from made-up pictures or a folder."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxkd.data import pictures

Feature = tfds.features


@dataclasses.dataclass(kw_only=True)
class Layout(tfds.core.BuilderConfig):
    """What is prepared: the records, and which features they have."""

    content: list = dataclasses.field(default_factory=list)
    classes: tuple = ()
    objects: dict = dataclasses.field(default_factory=dict)
    ids: type | None = None


class Made(tfds.core.GeneratorBasedBuilder):
    """Prepares the records of its configuration."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        layout = self.builder_config
        objects = {"bbox": Feature.BBoxFeature(), "label": Feature.ClassLabel(names=layout.classes), **layout.objects}
        features = {
            "image": Feature.Image(encoding_format="jpeg"),
            "image/filename": Feature.Text(),
            "objects": Feature.Sequence(objects),
        }
        if layout.ids:
            features["image/id"] = layout.ids
        return tfds.core.DatasetInfo(builder=self, features=Feature.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate(self.builder_config.content)


def prepare(folder: Path, *, name: str = "made", **layout) -> str:
    """The folder of the prepared version."""
    builder = Made(
        data_dir=str(folder), config=Layout(name=name, **layout), file_format="array_record", version="1.0.0"
    )
    builder.download_and_prepare()
    return str(builder.data_dir)


def prepare_coco(folder: Path, truth: dict, images: Path) -> str:
    """What TensorFlow Datasets makes of a COCO folder."""
    classes = {item["id"]: item["name"] for item in sorted(truth["categories"], key=lambda item: item["id"])}
    content = []
    for image in truth["images"]:
        sides = np.array([image["height"], image["width"]] * 2)
        objects = []
        for item in truth["annotations"]:
            if item["image_id"] == image["id"]:
                x, y, w, h = item["bbox"]
                box = np.array([y, x, y + h, x + w]) / sides
                objects.append(
                    {
                        "id": item["id"],
                        "area": int(item["area"]),
                        "bbox": Feature.BBox(*box),
                        "label": classes[item["category_id"]],
                        "is_crowd": bool(item["iscrowd"]),
                    }
                )
        file = images / image["file_name"]
        content.append({"image": str(file), "image/filename": file.name, "image/id": image["id"], "objects": objects})
    extra = {"id": np.int64, "area": np.int64, "is_crowd": np.bool_}
    return prepare(folder, content=content, classes=tuple(classes.values()), objects=extra, ids=np.int64)


@dataclasses.dataclass(frozen=True)
class Seen:
    """An object as VOC writes it: corners of its first and last pixel, counted from 1."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


def prepare_voc(folder: Path, content: dict[Path, list[Seen]], classes: tuple[str, ...]) -> str:
    """What TensorFlow Datasets makes of VOC annotations: their numbers over the sides of the picture."""
    rows = []
    for file, objects in content.items():
        height, width = pictures.read(file).shape[:2]
        rows.append(
            {
                "image": str(file),
                "image/filename": file.name,
                "objects": [
                    {
                        "bbox": Feature.BBox(y0 / height, x0 / width, y1 / height, x1 / width),
                        "label": seen.name,
                        "is_difficult": seen.difficult,
                    }
                    for seen in objects
                    for x0, y0, x1, y1 in [seen.corners]
                ],
            }
        )
    return prepare(folder, content=rows, classes=classes, objects={"is_difficult": np.bool_})


def draw_pictures(folder: Path, sizes: list[tuple[int, int]]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    files = []
    for number, (height, width) in enumerate(sizes, start=1):
        files.append(folder / f"{number}.jpg")
        cv2.imwrite(str(files[-1]), draw.integers(0, 255, (height, width, 3), np.uint8))
    return files


def made_up_coco(folder: Path) -> dict:
    sizes = [(41, 67), (64, 48), (50, 50)]
    files = draw_pictures(folder, sizes)
    boxes = {1: [(3.25, 4.5, 20.7, 11.1), (0, 0, 67, 41)], 2: [(10, 20, 38, 44)], 3: []}
    annotations = [
        {"image_id": 70 + image, "category_id": 5 + place, "bbox": list(box), "area": 50 + place, "iscrowd": place}
        for image, found in boxes.items()
        for place, box in enumerate(found)
    ]
    return {
        "images": [
            {"id": 70 + number, "file_name": file.name, "height": height, "width": width}
            for number, (file, (height, width)) in enumerate(zip(files, sizes, strict=True), start=1)
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 6, "name": "dog"}],
        "annotations": [item | {"id": number} for number, item in enumerate(annotations, start=1)],
    }
