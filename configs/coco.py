"""Faster R-CNN, RetinaNet, FCOS or GFL on COCO, untaught: teachers, and students to compare with.

Run card
  paper     Ren et al. 2015 (arXiv 1506.01497), Lin et al. 2017 (1612.03144, 1708.02002), Tian et al. 2020 (2006.09214),
            Li et al. 2020 (2006.04388), Qin et al. 2024 (2404.10518); mmdetection's schedules
  expects   AP on val2017 published for these schedules: Faster R-CNN R50 37.4 (1x), 38.4 (2x), R101 39.4 (1x), 39.8
            (2x); RetinaNet R50 36.5 (1x), 37.4 (2x), R101 38.9 (2x), X101 41.0 (2x); GFL R50 40.2 (1x), 42.9 (2x),
            R101 44.7 (2x); FCOS R50 38.7 (1x, from Caffe's weights), and in its first version, R101 39.1 (1x), with
            pictures of several sizes R50 38.5, R101 40.8 (2x); none that we know for R18, R34 of Faster R-CNN,
            RetinaNet and FCOS, nor for MobileNets
  data      COCO 2017 in coco/train2017, coco/val2017 and coco/annotations
  weights   the backbone's from ImageNet, as torchvision publishes them, in weights/; for MobileNetV4 timm's
            mobilenetv4_conv_small.e2400_r224_in1k, its model.safetensors under that name
  hardware  8 accelerators with 16 GB; estimated: 12 hours for R50 at 1x
  command   jaxkd train --config=coco:faster_rcnn-r50-2x --workdir=runs/faster_rcnn-r50-2x
  arguments DETECTOR-BACKBONE with faster_rcnn, retinanet, fcos or gfl, and r18, r34, r50, r101, x101 (32 x 4d) or
            mobilenet; or gfl-mobilenetv4_small-320 or -416, a light student in squares of so many pixels; then -2x for
            the long schedule; -tiny for a small one of its kind on blood cells, which the package has, on a CPU in
            minutes; -debug for ten steps of that
"""

from typing import Any

from jaxkd.config import component, load_recipe, recipe

EPOCH = 118287 // 16  # steps over train2017
BACKBONES: dict[str, dict[str, Any]] = {
    "r18": {"depth": 18},
    "r34": {"depth": 34},
    "r50": {"depth": 50},
    "r101": {"depth": 101},
    "x101": {"depth": 101, "cardinality": 32, "part_width": 4},
}
LIGHT = "mobilenetv4_small"
FILES = {
    "r18": "resnet18.pth",
    "r34": "resnet34.pth",
    "r50": "resnet50.pth",
    "r101": "resnet101.pth",
    "x101": "resnext101_32x4d.pth",
    "mobilenet": "mobilenet_v2.pth",
    LIGHT: "mobilenetv4_conv_small.e2400_r224_in1k.safetensors",
}
# Of a light student, by the side of its squares.
SIZES = {str(side): {"buckets": ((side, side),), "short": (side,), "long": side} for side in (320, 416)}


def get_config(arg="faster_rcnn-r50"):
    detector, backbone, *options = arg.split("-")
    small = {"tiny": tiny, "debug": debug}
    for option in options:
        if option in small:
            return small[option](detector, backbone)
    data = {
        "train": component(
            "data.coco", images="coco/train2017", annotations="coco/annotations/instances_train2017.json"
        ),
        "val": component("data.coco", images="coco/val2017", annotations="coco/annotations/instances_val2017.json"),
    }
    if backbone == LIGHT:
        data["loader"] = component("data.loader", **SIZES[options.pop(0) if options else ""])
    epochs = {(): 12, ("2x",): 24}[tuple(options)]
    return recipe(
        student=student(detector, backbone),
        initial=f"weights/{FILES[backbone]}",
        data=data,
        optimizer=component("train.optimizer", learning_rate={"faster_rcnn": 0.02}.get(detector, 0.01)),
        train=component("train.loop", batch=16, steps=epochs * EPOCH, evaluate_every=EPOCH),
    )


def student(detector, backbone):
    if backbone == LIGHT:
        return {"gfl": light}[detector]()
    net = component("nets.resnet", **BACKBONES[backbone]) if backbone in BACKBONES else component("nets.mobilenet")
    return component(f"detectors.{detector}", backbone=net, frozen_stages=1, dtype="bfloat16")


def light():
    """A GFL of depth-wise convolutions whose backbone goes on learning the statistics of its norms."""
    return component(
        "detectors.gfl",
        backbone=component("nets.mobilenetv4", size="small", norm="sync_batch"),
        neck=component("nets.light_pan", channels=96, norm="sync_batch"),
        head={"convs": 2, "channels": 96, "kernel": 5, "separable": True, "last_kernel": 1, "reg_max": 8},
        dtype="bfloat16",
    )


def tiny(detector, backbone):
    """A small detector of this kind on blood cells, for a few hundred steps."""
    config = load_recipe("bccd", {"faster_rcnn": "alone"}.get(detector, f"{detector}-alone"))
    nets = {"mobilenet": {"name": "nets.mobilenet", "width": 0.35}, LIGHT: {"name": "nets.mobilenetv4", "width": 0.5}}
    if backbone in nets:
        with config.unlocked():
            config.student.backbone = component(**nets[backbone], norm="group", groups=8)
    config.train.steps, config.train.probe_every = 400, 0
    return config


def debug(detector, backbone):
    """The tiny one for ten steps."""
    config = tiny(detector, backbone)
    config.train.steps, config.train.report_every, config.train.teacher_check = 10, 1, 0
    config.train.evaluate_limit = 8
    return config
