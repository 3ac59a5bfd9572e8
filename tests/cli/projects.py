"""A small COCO folder and a recipe for it in a file of its own, and commands as the shell would run them."""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
from pathlib import Path

import cv2
import numpy as np

from jaxkd.cli.main import main

RECIPE = """
from jaxkd.config import component, recipe

FOLDER = {folder!r}
SIZE = (64, 96)


def get_config(arg="alone"):
    methods = {{
        "alone": {{}},
        "taught": {{
            "tar": component("distill.task_adaptive", feature={{"canonical_scale": 28.0}}),
            "mimic": component("distill.mimic"),
            "gkd": component(
                "distill.global_knowledge", canonical_scale=14.0, prototypes={{"count": 2, "min_side": 10.0}}
            ),
        }},
    }}
    pictures = FOLDER + "/images"
    return recipe(
        student=component(
            "detectors.faster_rcnn",
            backbone=component("nets.resnet", depth=10, width=8, norm="group", groups=4),
            neck=component("nets.fpn", channels=16, extra="none"),
            anchors={{"sizes": (16.0, 24.0, 32.0, 48.0)}},
            rpn={{
                "samples": 32,
                "pre_nms_train": 64,
                "pre_nms_test": 64,
                "post_nms_train": 32,
                "post_nms_test": 32,
            }},
            rois={{"samples": 32}},
            pooling={{"canonical_scale": 28.0}},
            head={{"hidden": 32}},
            postprocess={{"score_threshold": 0.01, "candidates": 64, "max_detections": 20}},
        ),
        teacher={teacher!r} if methods[arg] else "",
        distill=methods[arg],
        data={{
            "train": component("data.coco", images=pictures, annotations=FOLDER + "/train.json"),
            "val": component("data.coco", images=pictures, annotations=FOLDER + "/val.json"),
            "loader": component("data.loader", buckets=(SIZE,), short=(64,), long=96, max_objects=6),
        }},
        optimizer=component("train.optimizer", learning_rate=0.01, warmup_steps=2),
        train=component("train.loop", batch=4, steps=4, devices=1, evaluate_batch=4, report_every=2),
    )
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and its words."""

    code: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class Project:
    """A folder with pictures, annotations and a recipe, all of which a test may spoil."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "tiny.py"

    def train(self, workdir: Path, *flags: str, arg: str = "alone") -> Outcome:
        with contextlib.chdir(self.folder):  # a recipe from elsewhere is announced
            return call("train", f"--config={self.recipe}:{arg}", f"--workdir={workdir}", *flags)

    def edit(self, name: str, change) -> None:
        """Changes an annotation file by a function of its content."""
        file = self.folder / name
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))


def call(*argv: object) -> Outcome:
    """A command as the shell would run it."""
    out, err = io.StringIO(), io.StringIO()
    handler, log = logging.StreamHandler(err), logging.getLogger("jaxkd")
    log.addHandler(handler)  # as `output.protect_streams` does
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in argv])
    finally:
        log.removeHandler(handler)
    return Outcome(code, out.getvalue(), err.getvalue())


def scores_in(folder: Path) -> dict[str, float]:
    """What a student's folder says that it scored, nan where that is not known."""
    scores = json.loads((folder / "detector.json").read_text())["scores"]
    return {name: float("nan") if value is None else value for name, value in scores.items()}


def listing(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of change and digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_project(folder: Path, *, teacher: str = "") -> Project:
    """Ten pictures with a bright square or a dark bar on each, eight to learn from and two to validate on."""
    images = folder / "images"
    images.mkdir(parents=True)
    draw = np.random.default_rng(0)
    categories = [{"id": 3, "name": "square"}, {"id": 7, "name": "bar"}]
    splits = {name: {"images": [], "categories": categories, "annotations": []} for name in ("train", "val")}
    for number in range(1, 11):
        picture = draw.integers(90, 160, (64, 96, 3), np.uint8)
        split = splits["train" if number <= 8 else "val"]
        split["images"].append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
        for category, colour, (width, height) in ((3, 255, (24, 24)), (7, 0, (40, 14))):
            x, y = (int(draw.integers(0, side)) for side in (96 - width, 64 - height))
            cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), (colour, colour, colour), -1)
            split["annotations"].append(
                {
                    "id": 2 * number + (category == 7),
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(images / f"{number}.png"), picture)
    for name, content in splits.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "tiny.py").write_text(RECIPE.format(folder=str(folder), teacher=teacher))
    return Project(folder)


def add_devkit(project: Project) -> Path:
    """The same pictures as a VOCdevkit of the year 2007, with the splits train and val, beside the project's files."""
    root = project.folder / "VOCdevkit"
    folders = [root / "VOC2007" / name for name in ("Annotations", "JPEGImages", "ImageSets/Main")]
    for folder in folders:
        folder.mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads((project.folder / f"{split}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        for image in content["images"]:
            objects = "".join(
                f"<object><name>{names[item['category_id']]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
                f"<xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>"
                for item in content["annotations"]
                if item["image_id"] == image["id"]
                for x, y, width, height in [item["bbox"]]
            )
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
            (folders[0] / f"{image['id']}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
            picture = cv2.imread(str(project.folder / "images" / image["file_name"]))
            cv2.imwrite(str(folders[1] / f"{image['id']}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
        (folders[2] / f"{split}.txt").write_text("".join(f"{image['id']}\n" for image in content["images"]))
    return root
