"""A small student on BCCD blood cells, alone or taught: the recipe of the quickstart, and its ablation.

Run card
  paper     Sun et al. 2020 (arXiv 2006.13108) and Tang et al. 2022 (arXiv 2210.09022), on a small scale
  data      BCCD, 205 pictures to learn from, 87 to validate on; comes with the package
  hardware  2 CPU cores, one to three minutes; estimated: ten to twenty with queries
  command   jaxkd train --config=bccd:tar --workdir=runs/tar
  arguments alone, mimic, pkd, cwd, fgd, mgd, align, detections, tar, gkd, tar+gkd; for the ablation tar_feature,
            tar_class, tar_box, tar_no_decay, tar_no_gates; after "retinanet-", "fcos-" or "gfl-" a dense student, after
            "rt_detr-" or "d_fine-" one with queries, to which the Faster R-CNN teacher shows features only
"""

from jaxkd.config import component, merged, recipe

SIZE = (144, 192)
QUERY_SIZE = (192, 256)  # of students with queries: multiples of 32, which the pictures fill as they are
# Weights for 3 classes and small boxes, where those of the paper would drown the detection loss.
TAR = {
    "feature": {"weight": 0.1, "canonical_scale": 56.0},
    "classification": {"weight": 2.0},
    "box": {"weight": 2.0},
    "adapter": {"init": "lecun"},
}
# The student starts from random numbers, among which there are no prototypes worth having.
GKD = {"canonical_scale": 14.0, "start_epoch": 5, "refresh_every": 5}
ANCHORS = (8.0, 16.0, 32.0, 64.0)
POSTPROCESS = {"candidates": 256, "max_detections": 60}
OFF = {"weight": 0.0}


def get_config(arg="alone"):
    detector, _, methods = arg.rpartition("-")
    chosen = {} if methods == "alone" else {name: METHODS[name] for name in methods.split("+")}
    has_queries, features_only = detector in QUERY_STUDENTS, detector != ""
    distill = {
        name.partition("_")[0]: method(**(FEATURES[name] if features_only else {})) for name, method in chosen.items()
    }
    return recipe(
        student=STUDENTS[detector](),
        teacher="assets:bccd_teacher" if distill else "",
        distill=distill,
        data={
            "train": component("data.coco", images="assets:bccd/images", annotations="assets:bccd/train.json"),
            "val": component("data.coco", images="assets:bccd/images", annotations="assets:bccd/val.json"),
            "loader": loader(QUERY_SIZE, fit="stretch") if has_queries else loader(SIZE),
        },
        optimizer=optimizer(**(QUERY_STEPS if has_queries else {"learning_rate": 0.003, "clip_norm": 10.0})),
        train=component(
            "train.loop", batch=8, steps=1400, evaluate_batch=8, report_every=100, checkpoint_every=500, probe_every=250
        ),
    )


def loader(size, **options):
    return component("data.loader", buckets=(size,), short=(size[0],), long=size[1], max_objects=40, **options)


def optimizer(**options):
    return component("train.optimizer", kind="adamw", weight_decay=0.05, warmup_steps=50, schedule="cosine", **options)


def tar(**options):
    return component("distill.task_adaptive", **merged(TAR, options))


def gkd(**options):
    return component("distill.global_knowledge", **merged(GKD, options))


def mimic(**options):
    return component("distill.mimic", adapter={"init": "lecun"}, weight=TAR["feature"]["weight"], **options)


def pkd():
    return component("distill.pearson")


def cwd():
    return component("distill.channel_wise")


def fgd():
    return component("distill.focal_global")


def mgd():
    return component("distill.masked_generative")


def align():
    return component("distill.align")


def detections():
    return component("distill.detections")


METHODS = {
    "mimic": mimic,
    "pkd": pkd,
    "cwd": cwd,
    "fgd": fgd,
    "mgd": mgd,
    "align": align,
    "detections": detections,
    "tar": tar,
    "gkd": gkd,
    "tar_feature": lambda: tar(classification=OFF, box=OFF),
    "tar_class": lambda: tar(feature=OFF, box=OFF),
    "tar_box": lambda: tar(feature=OFF, classification=OFF),
    "tar_no_decay": lambda: tar(decay=component("distill.decay", kind="none")),
    "tar_no_gates": lambda: tar(classification={"gate": "none"}, box={"gate": "none"}),
}
# The terms of each method for which a two-stage teacher fits a student that is dense or has queries.
FEATURES = {
    "mimic": {},
    "pkd": {},
    "cwd": {},
    "fgd": {},
    "mgd": {},
    "align": {},
    "detections": {},
    "tar": {"classification": OFF, "box": OFF},
    "gkd": {"soft": OFF},
}


def backbone():
    return component("nets.resnet", depth=10, width=8, norm="group", groups=8)


def neck():
    return component("nets.fpn", channels=16, extra="none")


def faster_rcnn():
    return component(
        "detectors.faster_rcnn",
        backbone=backbone(),
        neck=neck(),
        anchors={"sizes": ANCHORS},
        rpn={
            "samples": 64,
            "pre_nms_train": 256,
            "pre_nms_test": 256,
            "post_nms_train": 128,
            "post_nms_test": 128,
        },
        rois={"samples": 64},
        pooling={"canonical_scale": 56.0},
        head={"hidden": 64},
        postprocess=POSTPROCESS,
    )


def retinanet():
    return component(
        "detectors.retinanet",
        backbone=backbone(),
        neck=neck(),
        anchors={"sizes": ANCHORS, "octaves": 2, "ratios": (1.0,)},
        head={"convs": 2, "channels": 16, "norm": "group", "groups": 8},
        postprocess=POSTPROCESS,
    )


def fcos():
    return component(
        "detectors.fcos",
        backbone=backbone(),
        neck=neck(),
        head={"convs": 2, "channels": 16, "groups": 8},
        postprocess=POSTPROCESS | {"nms": 0.6},
    )


def gfl():
    return component(
        "detectors.gfl",
        backbone=backbone(),
        neck=neck(),
        anchors={"scale": 3.0},
        head={"convs": 2, "channels": 16, "groups": 8, "reg_max": 8},
        postprocess=POSTPROCESS | {"nms": 0.6},
    )


def rt_detr():
    """A RT-DETR with a small ResNet-D."""
    norms = {"norm": "group", "groups": 8}
    stages = {"stem": 16, "widths": (16, 32, 64, 128), "blocks": (1, 1, 1, 1), "bottleneck": False}
    return component(
        "detectors.rt_detr",
        backbone=component("nets.resnet_d", **stages, **norms),
        neck=component("nets.hybrid_encoder", channels=64, heads=4, hidden=128, expansion=0.5, **norms),
        decoder={"width": 64, "queries": 60, "layers": 2, "heads": 4, "hidden": 128, **norms},
        postprocess={"max_detections": 60},
    )


def d_fine():
    """The size "pocket" of D-FINE, for CPUs: with levels from stride 8, as some cells are small."""
    norms = {"norm": "group", "groups": 8}
    stages = {"widths": (16, 48, 96, 192), "inner": (8, 12, 24, 48), "blocks": (1,) * 4, "layers": (2,) * 4}
    return component(
        "detectors.d_fine",
        backbone=component("nets.hgnet", stem=(8, 8), **stages, **norms),
        neck=component("nets.elan_encoder", channels=64, heads=4, hidden=128, expansion=0.34, steps=1, **norms),
        decoder={"width": 64, "queries": 60, "layers": 2, "heads": 4, "hidden": 128, "points": (3, 4, 2), **norms},
        postprocess={"max_detections": 60},
    )


QUERY_STUDENTS = {"rt_detr": rt_detr, "d_fine": d_fine}
QUERY_STEPS = {"learning_rate": 0.001, "clip_norm": 1.0}
STUDENTS = {"": faster_rcnn, "retinanet": retinanet, "fcos": fcos, "gfl": gfl, **QUERY_STUDENTS}
