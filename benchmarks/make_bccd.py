"""Makes jaxkd/assets/bccd from the BCCD data set: half-size pictures and COCO annotations.

    python benchmarks/make_bccd.py --devkit VOCdevkit/BCCD --out jaxkd/assets/bccd

The data set is github.com/Shenggan/BCCD_Dataset; --devkit names its folder with Annotations, ImageSets and JPEGImages.
"""

import argparse
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import cv2

CLASSES = ("RBC", "WBC", "Platelets")
SPLITS = ("train", "val", "test")
SIZE = (320, 240)  # width, height
QUALITY = 85


def boxes_of(xml: Path, *, factor: tuple[float, float]) -> tuple[list[tuple[str, list[float]]], int]:
    """(class name, [x y w h] in the scaled picture) of every object in a VOC file, and how many boxes were empty.

    VOC counts pixels from 1 and includes the last one; here boxes start at 0 and end before their far edge.
    """
    found, empty = [], 0
    for item in ElementTree.parse(xml).getroot().iter("object"):
        xmin, ymin, xmax, ymax = (
            float(item.findtext(f"bndbox/{key}", "nan")) for key in ("xmin", "ymin", "xmax", "ymax")
        )
        if not (xmax > xmin and ymax > ymin):
            empty += 1
            continue
        x0, x1 = (min(max(x * factor[0], 0.0), SIZE[0]) for x in (xmin - 1, xmax))
        y0, y1 = (min(max(y * factor[1], 0.0), SIZE[1]) for y in (ymin - 1, ymax))
        found.append((item.findtext("name", ""), [x0, y0, x1 - x0, y1 - y0]))
    return found, empty


def make_split(devkit: Path, out: Path, split: str) -> dict:
    """Writes the pictures of one split; the result is its COCO annotations."""
    images, annotations, empty = [], [], 0
    for name in (devkit / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        picture = cv2.imread(str(devkit / "JPEGImages" / f"{name}.jpg"), cv2.IMREAD_COLOR)
        if picture is None:
            raise SystemExit(f"{name}.jpg does not decode; get the data set again.")
        height, width = picture.shape[:2]
        factor = (SIZE[0] / width, SIZE[1] / height)
        if width * SIZE[1] != height * SIZE[0]:
            raise SystemExit(f"{name}.jpg is {width}x{height}; {SIZE[0]}x{SIZE[1]} would distort it.")
        small = cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)
        file = f"{name}.jpg"
        cv2.imwrite(
            str(out / "images" / file), small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        )
        number = int(name.rpartition("_")[2])
        images.append({"id": number, "file_name": file, "width": SIZE[0], "height": SIZE[1]})
        boxes, dropped = boxes_of(devkit / "Annotations" / f"{name}.xml", factor=factor)
        empty += dropped
        for label, box in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CLASSES.index(label) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {
        "info": {
            "description": f"BCCD, split {split}, pictures scaled from 640x480 to {SIZE[0]}x{SIZE[1]}",
            "url": "https://github.com/Shenggan/BCCD_Dataset",
            "license": "MIT",
            "boxes_dropped_for_zero_size": empty,
        },
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)],
        "images": images,
        "annotations": annotations,
    }


def main() -> None:
    """Writes images/, train.json, val.json and test.json below --out."""
    parser = argparse.ArgumentParser(description="Makes the half-size BCCD data set.")
    parser.add_argument("--devkit", type=Path, required=True, help="folder with Annotations, ImageSets and JPEGImages")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    images = arguments.out / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    for split in SPLITS:
        truth = make_split(arguments.devkit, arguments.out, split)
        (arguments.out / f"{split}.json").write_text(json.dumps(truth, separators=(",", ":")) + "\n")
        dropped = truth["info"]["boxes_dropped_for_zero_size"]
        print(f"{split}: {len(truth['images'])} pictures, {len(truth['annotations'])} boxes, {dropped} dropped")
    size = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
    print(f"{size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
