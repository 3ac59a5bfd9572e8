"""A small student on BCCD blood cells, alone or taught: the recipe of the quickstart, and its ablation.

Run card
  paper     Sun et al. 2020 (arXiv 2006.13108), on a small scale
  data      BCCD, 205 pictures to learn from, 87 to validate on; comes with the package
  hardware  2 CPU cores, one to three minutes
  command   jaxkd train --config=bccd:tar --workdir=runs/tar
  arguments alone, tar, mimic; for the ablation tar_feature, tar_class, tar_box, tar_no_decay, tar_no_gates
"""

from jaxkd.config import component, recipe

SIZE = (144, 192)
# Weights for 3 classes and small boxes, where those of the paper would drown the detection loss.
TAR = {"level_scale": 56.0, "adapt_init": "lecun", "w_feat": 0.1, "w_cls": 2.0, "w_reg": 2.0}


def get_config(arg="alone"):
    methods = {
        "alone": None,
        "mimic": component("distill.mimic", adapt_init="lecun", weight=TAR["w_feat"]),
        "tar": tar(),
        "tar_feature": tar(w_cls=0.0, w_reg=0.0),
        "tar_class": tar(w_feat=0.0, w_reg=0.0),
        "tar_box": tar(w_feat=0.0, w_cls=0.0),
        "tar_no_decay": tar(decay=component("distill.decay", kind="none")),
        "tar_no_gates": tar(cls_gate="none", reg_gate="none"),
    }
    method = methods[arg]
    return recipe(
        student=student(),
        teacher="assets:bccd_teacher" if method else "",
        distill={arg.partition("_")[0]: method} if method else {},
        data={
            "train": component("data.coco", images="assets:bccd/images", annotations="assets:bccd/train.json"),
            "val": component("data.coco", images="assets:bccd/images", annotations="assets:bccd/val.json"),
            "loader": component("data.loader", buckets=(SIZE,), short=(SIZE[0],), long=SIZE[1], max_objects=40),
        },
        optimizer=component(
            "train.optimizer",
            kind="adamw",
            learning_rate=0.003,
            weight_decay=0.05,
            warmup_steps=50,
            schedule="cosine",
            clip_norm=10.0,
        ),
        train=component(
            "train.loop", batch=8, steps=1400, evaluate_batch=8, report_every=100, checkpoint_every=500, probe_every=250
        ),
    )


def tar(**options):
    return component("distill.task_adaptive", **(TAR | options))


def student():
    return component(
        "detectors.faster_rcnn",
        backbone=component("nets.resnet", depth=10, width=8, norm="group", groups=8),
        neck=component("nets.fpn", channels=16, extra="none"),
        anchor_sizes=(8.0, 16.0, 32.0, 64.0),
        rpn_samples=64,
        pre_nms_train=256,
        pre_nms_test=256,
        post_nms_train=128,
        post_nms_test=128,
        roi_samples=64,
        roi_scale=56.0,
        hidden=64,
        candidates=256,
        detections=60,
    )
