"""A small student on BCCD blood cells, alone or taught: the recipe of the quickstart, and its ablation.

Run card
  paper     Sun et al. 2020 (arXiv 2006.13108) and Tang et al. 2022 (arXiv 2210.09022), on a small scale
  data      BCCD, 205 pictures to learn from, 87 to validate on; comes with the package
  hardware  2 CPU cores, one to three minutes
  command   jaxkd train --config=bccd:tar --workdir=runs/tar
  arguments alone, mimic, tar, gkd, tar+gkd; for the ablation tar_feature, tar_class, tar_box, tar_no_decay,
            tar_no_gates; after "retinanet-" a RetinaNet student, to which the Faster R-CNN teacher shows features only
"""

from jaxkd.config import component, recipe

SIZE = (144, 192)
# Weights for 3 classes and small boxes, where those of the paper would drown the detection loss.
TAR = {"level_scale": 56.0, "adapter_init": "lecun", "w_feat": 0.1, "w_cls": 2.0, "w_reg": 2.0}
# The student starts from random numbers, among which there are no prototypes worth having.
GKD = {"level_scale": 14.0, "start_epoch": 5, "refresh_every": 5}
BOXES = {"anchor_sizes": (8.0, 16.0, 32.0, 64.0), "detections": 60}


def get_config(arg="alone"):
    detector, _, methods = arg.rpartition("-")
    chosen = {} if methods == "alone" else {name: METHODS[name] for name in methods.split("+")}
    dense = detector == "retinanet"
    distill = {name.partition("_")[0]: method(**(FEATURES[name] if dense else {})) for name, method in chosen.items()}
    return recipe(
        student={"": faster_rcnn, "retinanet": retinanet}[detector](),
        teacher="assets:bccd_teacher" if distill else "",
        distill=distill,
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


def gkd(**options):
    return component("distill.global_knowledge", **(GKD | options))


def mimic(**options):
    return component("distill.mimic", adapter_init="lecun", weight=TAR["w_feat"], **options)


METHODS = {
    "mimic": mimic,
    "tar": tar,
    "gkd": gkd,
    "tar_feature": lambda: tar(w_cls=0.0, w_reg=0.0),
    "tar_class": lambda: tar(w_feat=0.0, w_reg=0.0),
    "tar_box": lambda: tar(w_feat=0.0, w_cls=0.0),
    "tar_no_decay": lambda: tar(decay=component("distill.decay", kind="none")),
    "tar_no_gates": lambda: tar(cls_gate="none", reg_gate="none"),
}
# What of a method a two-stage teacher can show a dense student.
FEATURES = {"mimic": {}, "tar": {"w_cls": 0.0, "w_reg": 0.0}, "gkd": {"soft_weight": 0.0}}


def backbone():
    return component("nets.resnet", depth=10, width=8, norm="group", groups=8)


def neck():
    return component("nets.fpn", channels=16, extra="none")


def faster_rcnn():
    return component(
        "detectors.faster_rcnn",
        backbone=backbone(),
        neck=neck(),
        rpn_samples=64,
        pre_nms_train=256,
        pre_nms_test=256,
        post_nms_train=128,
        post_nms_test=128,
        roi_samples=64,
        roi_scale=56.0,
        hidden=64,
        candidates=256,
        **BOXES,
    )


def retinanet():
    return component(
        "detectors.retinanet",
        backbone=backbone(),
        neck=neck(),
        octaves=2,
        anchor_ratios=(1.0,),
        tower_depth=2,
        tower_channels=16,
        tower_norm="group",
        tower_groups=8,
        candidates=256,
        **BOXES,
    )
