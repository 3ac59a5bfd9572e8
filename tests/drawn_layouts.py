"""One small set of drawn pictures, written in every layout that folders of annotated pictures come in."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from jaxkd.data.voc import SIDES

CLASSES = ("cat", "dog")
HEIGHT, WIDTH = 64, 128  # powers of 2, so that shares of whole pixels are exact


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, and its objects as (class, x0, y0, x1, y1) in pixels."""

    stem: str
    objects: tuple[tuple[str, int, int, int, int], ...]


DRAWN: Mapping[str, tuple[Picture, ...]] = {
    "train": (
        Picture("a", (("cat", 4, 8, 20, 40), ("dog", 64, 2, 127, 63))),
        Picture("b", (("dog", 1, 1, 8, 12),)),
        Picture("c", ()),
    ),
    "val": (Picture("d", (("cat", 30, 10, 50, 30),)), Picture("e", (("dog", 0, 0, 128, 64),))),
    "test": (Picture("f", (("cat", 10, 20, 30, 60),)),),
}
ALL = tuple(picture for pictures in DRAWN.values() for picture in pictures)


def draw(file: Path) -> None:
    """Writes a picture whose colour is its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * (ord(file.stem[-1]) % 6), np.uint8)).save(file)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def coco_text(pictures, *, name: Callable[[str], str] = lambda stem: f"{stem}.png", categories=None) -> str:
    """A COCO file; `name` makes the file name of a stem."""
    listed = categories or [{"id": number, "name": text} for number, text in enumerate(CLASSES, start=1)]
    ids = {entry["name"]: entry["id"] for entry in listed}
    images = [
        {"id": number, "file_name": name(picture.stem), "height": HEIGHT, "width": WIDTH}
        for number, picture in enumerate(pictures, start=1)
    ]
    annotations = [
        {"image_id": number, "category_id": ids[text], "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for number, picture in enumerate(pictures, start=1)
        for text, x0, y0, x1, y1 in picture.objects
    ]
    for number, entry in enumerate(annotations, start=1):
        entry["id"] = number
    return json.dumps({"images": images, "categories": listed, "annotations": annotations})


def yolo_text(picture: Picture) -> str:
    return "".join(
        f"{CLASSES.index(text)} {(x0 + x1) / 2 / WIDTH!r} {(y0 + y1) / 2 / HEIGHT!r} {(x1 - x0) / WIDTH!r} "
        f"{(y1 - y0) / HEIGHT!r}\n"
        for text, x0, y0, x1, y1 in picture.objects
    )


def voc_text(picture: Picture) -> str:
    """A VOC annotation, whose corners count from 1."""
    items = ""
    for name, x0, y0, x1, y1 in picture.objects:
        sides = "".join(
            f"<{side}>{value}</{side}>" for side, value in zip(SIDES, (x0 + 1, y0 + 1, x1, y1), strict=True)
        )
        items += f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{picture.stem}.png</filename>{size}{items}</annotation>"


def roboflow_coco(root: Path) -> None:
    group = [{"id": 0, "name": "pets", "supercategory": "none"}]
    group += [{"id": number, "name": name, "supercategory": "pets"} for number, name in enumerate(CLASSES, start=1)]
    for folder, pictures in zip(("train", "valid", "test"), DRAWN.values(), strict=True):
        write(root / folder / "_annotations.coco.json", coco_text(pictures, categories=group))
        for picture in pictures:
            draw(root / folder / f"{picture.stem}.png")


def official_coco(root: Path) -> None:
    for split, pictures in DRAWN.items():
        write(root / f"annotations/instances_{split}2017.json", coco_text(pictures))
        write(root / f"annotations/captions_{split}2017.json", '{"images": [{"file_name": "a"}], "annotations": [{}]}')
        for picture in pictures:
            draw(root / f"{split}2017" / f"{picture.stem}.png")
    write(root / "results.json", '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')


def generic_coco(root: Path) -> None:
    for split, pictures in DRAWN.items():
        write(root / split / "labels.json", coco_text(pictures))
        for picture in pictures:
            draw(root / split / "data" / f"{picture.stem}.png")


def label_studio_coco(root: Path) -> None:
    write(root / "result.json", coco_text(ALL, name=lambda stem: f"images\\{stem}.png"))
    for picture in ALL:
        draw(root / "images" / f"{picture.stem}.png")


def yolo_pictures(root: Path, images: str, labels: str, split: str = "") -> None:
    """The pictures and labels of a split, or of all, the empty label file of "c" left out."""
    for picture in DRAWN[split] if split else ALL:
        draw(root / images / f"{picture.stem}.png")
        if picture.objects:
            write(root / labels / f"{picture.stem}.txt", yolo_text(picture))


def yolo_ultralytics(root: Path) -> None:
    for split in DRAWN:
        yolo_pictures(root, f"images/{split}", f"labels/{split}", split)
    write(
        root / "data.yaml",
        "path: .\ntrain: images/train\nval: [images/val]\ntest: images/test\nnames:\n  0: cat\n  1: dog\n",
    )


def yolo_roboflow(root: Path) -> None:
    for folder, split in zip(("train", "valid", "test"), DRAWN, strict=True):
        yolo_pictures(root, f"{folder}/images", f"{folder}/labels", split)
    write(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n",
    )


def yolo_lists(root: Path) -> None:
    yolo_pictures(root, "images", "labels")
    starts = {"train": "./images/", "val": "images/", "test": f"{root}/images/"}
    for split, pictures in DRAWN.items():
        lines = [f"{starts[split]}{picture.stem}.png" for picture in pictures]
        write(root / f"{split}.txt", "\ufeff" + '"' + '"\r\n\r\n"'.join(lines) + '"  \r\n')
    write(root / "dataset.yaml", "train: train.txt\nval: val.txt\ntest: test.txt\nnames: [cat, dog]\n")


def darknet(root: Path) -> None:
    for split, pictures in DRAWN.items():
        folder = f"obj_{split}_data"
        yolo_pictures(root, folder, folder, split)
        write(root / f"{split}.txt", "".join(f"data/{folder}/{picture.stem}.png\n" for picture in pictures))
    write(root / "obj.names", "cat\ndog\n")
    write(
        root / "obj.data",
        "classes = 2\ntrain = data/train.txt\nvalid = data/val.txt\ntest = data/test.txt\nnames = data/obj.names\n"
        "backup = backup/\n",
    )


def yolo_bare(root: Path) -> None:
    for split in DRAWN:
        yolo_pictures(root, f"images/{split}", f"labels/{split}", split)
    write(root / "classes.txt", "cat\ndog\n")


def voc_standard(root: Path) -> None:
    for split, pictures in DRAWN.items():
        write(root / f"pets/ImageSets/Main/{split}.txt", "".join(f"{picture.stem}\n" for picture in pictures))
        for picture in pictures:
            write(root / f"pets/Annotations/{picture.stem}.xml", voc_text(picture))
            draw(root / f"pets/JPEGImages/{picture.stem}.png")


def voc_flat(root: Path) -> None:
    for folder, pictures in zip(("train", "valid", "test"), DRAWN.values(), strict=True):
        for picture in pictures:
            write(root / folder / f"{picture.stem}.xml", voc_text(picture))
            draw(root / folder / f"{picture.stem}.png")


def voc_folders(root: Path) -> None:
    """Annotations beside images, without lists."""
    for picture in ALL:
        write(root / "annotations" / f"{picture.stem}.xml", voc_text(picture))
        draw(root / "images" / f"{picture.stem}.png")


WITH_SPLITS = {
    "coco": (roboflow_coco, official_coco, generic_coco),
    "yolo": (yolo_ultralytics, yolo_roboflow, yolo_lists, darknet, yolo_bare),
    "voc": (voc_standard, voc_flat),
}
WITHOUT_SPLITS = {"coco": (label_studio_coco,), "voc": (voc_folders,)}
