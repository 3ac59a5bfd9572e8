"""A small student on BCCD blood cells, alone or taught: the recipe of the quickstart.

Run card
  paper     Sun et al. 2020 (arXiv 2006.13108), on a small scale
  data      BCCD, 205 pictures to learn from, 87 to validate on; comes with the package
  hardware  2 CPU cores, some two minutes
  command   jaxkd train --config=bccd:tar --workdir=runs/tar        (:alone, :mimic)
"""

from jaxkd.config import component, recipe

CLASSES = ("RBC", "WBC", "Platelets")
SIZE = (144, 192)


def get_config(arg="alone"):
    methods = {
        "alone": {},
        "tar": {"tar": component("distill.task_adaptive", level_scale=56.0, adapt_init="lecun")},
        "mimic": {"mimic": component("distill.mimic", adapt_init="lecun")},
    }
    return recipe(
        student=student(),
        teacher="assets:bccd_teacher" if methods[arg] else "",
        distill=methods[arg],
        data={
            "train": component("data.coco", images="assets:bccd/images", annotations="assets:bccd/train.json"),
            "val": component("data.coco", images="assets:bccd/images", annotations="assets:bccd/val.json"),
            "loader": component("data.loader", buckets=(SIZE,), short=(SIZE[0],), long=SIZE[1], max_objects=40),
        },
        optimizer=component("train.optimizer", learning_rate=0.02, warmup_steps=50, schedule="cosine", clip_norm=10.0),
        train=component(
            "train.loop", batch=8, steps=800, evaluate_batch=8, report_every=50, checkpoint_every=400, probe_every=200
        ),
    )


def student():
    return component(
        "detectors.faster_rcnn",
        backbone=component("nets.resnet", depth=10, width=16, norm="group", groups=8),
        neck=component("nets.fpn", channels=64, extra="none", norm="none"),
        **head(),
    )


def head():
    return {
        "anchor_sizes": (8.0, 16.0, 32.0, 64.0),
        "rpn_samples": 64,
        "pre_nms_train": 256,
        "pre_nms_test": 256,
        "post_nms_train": 128,
        "post_nms_test": 128,
        "roi_samples": 64,
        "roi_scale": 56.0,
        "hidden": 256,
        "candidates": 256,
        "detections": 60,
        "agnostic": False,
    }
