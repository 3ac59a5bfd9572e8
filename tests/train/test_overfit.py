"""Small detectors on real pictures: one that learns eight of them by heart, and steps on what real data holds."""

import math

import pytest
import tiny

from jaxkd.config import component, recipe
from jaxkd.train import log, loop

STUDENTS = {
    "faster_rcnn": tiny.detector(
        width=16,
        channels=32,
        anchors={"sizes": (8.0, 16.0, 32.0, 64.0)},
        rpn={
            "samples": 64,
            "pre_nms_train": 128,
            "pre_nms_test": 128,
            "post_nms_train": 64,
            "post_nms_test": 64,
        },
        rois={"samples": 64},
        pooling={"canonical_scale": 56.0},
        head={"hidden": 128},
        postprocess={"candidates": 128, "max_detections": 40},
    ),
    "retinanet": tiny.retinanet(
        width=16,
        channels=32,
        anchors={"sizes": (10.0, 24.0, 44.0)},
        head={"convs": 2, "channels": 32, "norm": "group", "groups": 8},
        postprocess={"candidates": 128, "max_detections": 40},
    ),
    "gfl": tiny.gfl(
        width=16,
        channels=32,
        first=0,
        anchors={"scale": 3.0},
        head={"convs": 2, "channels": 32, "groups": 8, "reg_max": 8},
        postprocess={"candidates": 128, "max_detections": 40},
    ),
    "fcos": tiny.fcos(
        width=16,
        channels=32,
        first=0,
        assignment={"radius": 1.0},
        head={"convs": 2, "channels": 32, "groups": 8},
        loss={"box_weighting": False},
        postprocess={"candidates": 400, "max_detections": 60},
    ),
    "rt_detr": tiny.rt_detr(
        width=16,
        channels=32,
        decoder={"width": 32, "queries": 60, "layers": 2, "hidden": 64},
        postprocess={"max_detections": 60},
    ),
    "d_fine": tiny.d_fine(
        width=16,
        channels=32,
        decoder={"width": 32, "queries": 60, "layers": 2, "hidden": 64, "bins": 16},
        denoising={"queries": 40},
        postprocess={"max_detections": 60},
    ),
}
QUERIES = ("rt_detr", "d_fine")  # learn slowly, and of pictures that fill a canvas of whole cells
# Else 160; of FCOS's positives one in thirty is of the rarest class, whose cells are small.
STEPS = {"fcos": 320, "rt_detr": 400, "d_fine": 400}


@pytest.mark.parametrize("kind", STUDENTS)
def test_eight_pictures_of_blood_cells_are_learned_by_heart(tmp_path, kind):
    pictures = component("data.coco", images="assets:bccd/images", annotations="assets:bccd/train.json", limit=8)
    has_queries = kind in QUERIES
    height, fit, rate, clip = (128, "stretch", 0.002, 1.0) if has_queries else (120, "keep", 0.003, 10.0)
    config = recipe(
        student=STUDENTS[kind],
        data={
            "train": pictures,
            "val": pictures,
            "loader": tiny.loader(
                buckets=((height, 160),), short=(height,), long=160, fit=fit, max_objects=40, flip=0.0, cache=True
            ),
        },
        optimizer=component(
            "train.optimizer", kind="adamw", learning_rate=rate, warmup_steps=20, schedule="cosine", clip_norm=clip
        ),
        train=component(
            "train.loop",
            batch=8,
            steps=STEPS.get(kind, 160),
            devices=1,
            evaluate_batch=8,
            report_every=20,
            checkpoint_every=0,
        ),
    )
    finished = loop.run(config, tmp_path, quiet=True)
    assert finished.evaluation.pictures == 8
    assert finished.evaluation.scores.summary["AP50"] > 0.9


@pytest.mark.parametrize(("folder", "limit", "steps"), [("minicoco", 0, 50), ("aquarium", 20, 12)])
def test_steps_on_real_pictures_are_finite(shared, tmp_path, folder, limit, steps):
    places = {
        "minicoco": ("train2017", "instances_train2017", "val2017", "instances_val2017"),
        "aquarium": ("train", "instances_train", "val", "instances_val"),
    }[folder]
    root = shared / "data" / folder
    train, val = (
        component(
            "data.coco", images=str(root / images), annotations=str(root / "annotations" / f"{file}.json"), limit=most
        )
        for images, file, most in ((*places[:2], limit), (*places[2:], 8))
    )
    config = tiny.run(
        steps=steps,
        train={"batch": 8, "evaluate_batch": 8, "report_every": 5, "checkpoint_every": 0},
        data={
            "train": train,
            "val": val,
            "loader": tiny.loader(buckets=((96, 96),), short=(72,), long=96, max_objects=20),
        },
        optimizer=component("train.optimizer", learning_rate=0.005, warmup_steps=10, clip_norm=10.0),
    )
    finished = loop.run(config, tmp_path, quiet=True)
    assert (finished.steps, finished.compilations) == (steps, 1)
    reports = [line for line in log.read(tmp_path) if "loss" in line]
    assert reports[-1]["step"] == steps
    for line in reports:
        assert line["skipped_steps"] == 0
        assert all(value is not None and math.isfinite(value) for value in line.values()), line
    assert finished.evaluation.pictures == 8
