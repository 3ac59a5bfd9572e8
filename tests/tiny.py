"""Detectors that compile in seconds, pictures for them, and recipes around them."""

from ml_collections import ConfigDict

from jaxkd.config import component, merged, recipe

SIZE = (64, 96)


def detector(*, width: int = 8, channels: int = 16, norm: str = "group", dtype: str = "float32", **more) -> ConfigDict:
    """Faster R-CNN with ResNet-10 and a four-level pyramid."""
    fields = {
        "anchors": {"sizes": (16.0, 24.0, 32.0, 48.0)},
        "rpn": {
            "samples": 32,
            "pre_nms_train": 64,
            "pre_nms_test": 64,
            "post_nms_train": 32,
            "post_nms_test": 32,
        },
        "rois": {"samples": 32},
        "pooling": {"canonical_scale": 28.0},
        "head": {"hidden": 32},
        "postprocess": {"candidates": 64, "max_detections": 20},
    }
    return component(
        "detectors.faster_rcnn",
        backbone=component("nets.resnet", depth=10, width=width, norm=norm, groups=4),
        neck=component("nets.fpn", channels=channels, extra="none"),
        dtype=dtype,
        **merged(fields, more),
    )


def retinanet(*, width: int = 8, channels: int = 16, norm: str = "group", dtype: str = "float32", **more) -> ConfigDict:
    """RetinaNet with ResNet-10 and a pyramid of three levels, from stride 8 to 32."""
    fields = {
        "anchors": {"sizes": (12.0, 20.0, 32.0), "octaves": 2, "ratios": (1.0,)},
        "head": {"convs": 1, "channels": 16},
        "postprocess": {"candidates": 64, "max_detections": 20},
    }
    return component(
        "detectors.retinanet",
        backbone=component("nets.resnet", depth=10, width=width, norm=norm, groups=4),
        neck=component("nets.fpn", channels=channels, first=1, extra="none"),
        dtype=dtype,
        **merged(fields, more),
    )


def gfl(
    *, width: int = 8, channels: int = 16, norm: str = "group", dtype: str = "float32", first: int = 1, **more
) -> ConfigDict:
    """GFL with ResNet-10 and a pyramid of three levels, from stride 8 to 32."""
    fields = {
        "anchors": {"scale": 4.0},
        "head": {"convs": 1, "channels": 16, "groups": 4, "reg_max": 6},
        "postprocess": {"candidates": 64, "max_detections": 20},
    }
    return component(
        "detectors.gfl",
        backbone=component("nets.resnet", depth=10, width=width, norm=norm, groups=4),
        neck=component("nets.fpn", channels=channels, first=first, extra="none"),
        dtype=dtype,
        **merged(fields, more),
    )


def fcos(
    *, width: int = 8, channels: int = 16, norm: str = "group", dtype: str = "float32", first: int = 1, **more
) -> ConfigDict:
    """FCOS with ResNet-10 and a pyramid of three levels, from stride 8 to 32."""
    fields = {
        "head": {"convs": 1, "channels": 16, "groups": 4},
        "postprocess": {"candidates": 64, "max_detections": 20},
    }
    return component(
        "detectors.fcos",
        backbone=component("nets.resnet", depth=10, width=width, norm=norm, groups=4),
        neck=component("nets.fpn", channels=channels, first=first, extra="none"),
        dtype=dtype,
        **merged(fields, more),
    )


def rt_detr(*, width: int = 8, channels: int = 16, norm: str = "group", dtype: str = "float32", **more) -> ConfigDict:
    """RT-DETR with a ResNet-D of one block a stage and three levels, from stride 8 to 32."""
    norms = {"norm": norm, "groups": 4}
    fields = {
        "decoder": {"width": 16, "queries": 40, "layers": 2, "heads": 4, "hidden": 24, **norms},
        "denoising": {"queries": 6},
        "postprocess": {"max_detections": 120},
    }
    stages = {"widths": (width,) * 4, "blocks": (1,) * 4, "bottleneck": False}
    return component(
        "detectors.rt_detr",
        backbone=component("nets.resnet_d", stem=width, **stages, **norms),
        neck=component("nets.hybrid_encoder", channels=channels, heads=4, hidden=24, **norms),
        dtype=dtype,
        **merged(fields, more),
    )


def d_fine(*, width: int = 8, channels: int = 16, norm: str = "group", dtype: str = "float32", **more) -> ConfigDict:
    """D-FINE with an HGNet of one block of two layers a stage and three levels, from stride 8 to 32."""
    norms = {"norm": norm, "groups": 4}
    fields = {
        "decoder": {"width": 16, "queries": 40, "layers": 2, "heads": 4, "hidden": 24, "bins": 8, **norms},
        "denoising": {"queries": 6},
        "postprocess": {"max_detections": 120},
    }
    stages = {"inner": (8,) * 4, "widths": (width,) * 4, "blocks": (1,) * 4, "layers": (2,) * 4}
    return component(
        "detectors.d_fine",
        backbone=component("nets.hgnet", stem=(8, width), **stages, **norms),
        neck=component("nets.elan_encoder", channels=channels, heads=4, hidden=24, steps=1, **norms),
        dtype=dtype,
        **merged(fields, more),
    )


def loader(**more) -> ConfigDict:
    """Batches of one bucket."""
    return component(
        "data.loader", **({"buckets": (SIZE,), "short": (min(SIZE),), "long": max(SIZE), "max_objects": 6} | more)
    )


def run(*, steps: int = 12, train: dict | None = None, **parts) -> ConfigDict:
    """A recipe on drawn pictures, on one device, with a checkpoint every four steps; `parts` replace whole parts."""
    fields = {"batch": 4, "devices": 1, "evaluate_batch": 4, "report_every": 1, "checkpoint_every": 4}
    default = {
        "student": detector(),
        "data": {
            "train": component("data.shapes", count=16, size=SIZE),
            "val": component("data.shapes", count=4, size=SIZE, seed=1),
            "loader": loader(),
        },
        "optimizer": component("train.optimizer", learning_rate=0.01, warmup_steps=2),
    }
    training = component("train.loop", steps=steps, **(fields | {"teacher_check": 0} | (train or {})))
    return recipe(train=training, **(default | parts))
