"""RT-DETR or D-FINE on COCO, untaught: students with queries, as published.

Run card
  paper     Zhao et al. 2024 (arXiv 2304.08069), Peng et al. 2024 (arXiv 2410.13842); the authors' schedules
  expects   AP on val2017 published for these schedules: D-FINE N 42.8, S 48.5, M 52.3; RT-DETR R18 46.5, R50 53.1. They
            were not run here, and two things differ: a picture that is zoomed out is not cropped too, and the last
            epochs do not begin from the best moving average
  data      COCO 2017 in coco/train2017, coco/val2017 and coco/annotations
  weights   the backbone's from ImageNet in weights/, as the authors publish it (PPHGNetV2_B0_stage1.pth and such);
            without it, --config.initial= for random numbers, or a folder of Hugging Face to go on from it
  hardware  8 accelerators with 16 GB; estimated: a day for D-FINE N, two to four for the others
  command   jaxkd train --config=query_coco:d_fine-s --workdir=runs/d_fine-s
  arguments d_fine-n, d_fine-s, d_fine-m, rt_detr-r18 or rt_detr-r50; then -tiny for a small one of its kind on blood
            cells, which the package has, on a CPU; -debug for ten steps of that
"""

from jaxkd.config import component, load_recipe, recipe

PICTURES = 118287  # of train2017
SIDE = 640
# One of these for each step: 640 three times, as published.
SIDES = (SIDE, SIDE, SIDE, *(side for side in range(480, 801, 32) if side != SIDE))
NORM = "sync_batch"  # of all that is trained
B2 = {"stem": (24, 32), "inner": (32, 64, 128, 256), "widths": (96, 384, 768, 1536), "blocks": (1, 1, 3, 1)}
R18 = {"widths": (64, 128, 256, 512), "blocks": (2, 2, 2, 2), "bottleneck": False}
D_FINE = {
    "n": {
        "backbone": {},
        "neck": {"channels": 128, "first": 2, "hidden": 512, "expansion": 0.34, "steps": 2},
        "decoder": {"width": 128, "layers": 3, "hidden": 512, "points": (6, 6)},
    },
    "s": {"backbone": {}, "neck": {"expansion": 0.5, "steps": 1}, "decoder": {"layers": 3}},
    "m": {"backbone": {**B2, "layers": (4,) * 4}, "neck": {"steps": 2}, "decoder": {"layers": 4}},
}
RT_DETR = {
    "r18": {"backbone": {**R18, "norm": NORM}, "neck": {"expansion": 0.5}, "decoder": {"layers": 3}},
    "r50": {"backbone": {}, "neck": {}, "decoder": {}},  # whose backbone keeps the statistics of its norms
}
FILES = {  # as the authors name them
    "n": "PPHGNetV2_B0_stage1",
    "s": "PPHGNetV2_B0_stage1",
    "m": "PPHGNetV2_B2_stage1",
    "r18": "ResNet18_vd_pretrained_from_paddle",
    "r50": "ResNet50_vd_ssld_v2_pretrained_from_paddle",
}
# Learning rate, its factor for the backbone, batch and epochs.
SCHEDULES = {
    "n": (8e-4, 0.5, 128, 160),
    "s": (2e-4, 0.5, 32, 132),
    "m": (2e-4, 0.1, 32, 132),
    "r18": (1e-4, 0.1, 16, 72),
    "r50": (1e-4, 0.1, 16, 72),
}


def get_config(arg="d_fine-s"):
    kind, size, *options = arg.split("-")
    if options:
        return {"tiny": tiny, "debug": debug}[options[0]](kind)
    rate, factor, batch, epochs = SCHEDULES[size]
    epoch = PICTURES // batch
    return recipe(
        student={"d_fine": d_fine, "rt_detr": rt_detr}[kind](size),
        initial=f"weights/{FILES[size]}.pth",
        data={
            "train": component(
                "data.coco", images="coco/train2017", annotations="coco/annotations/instances_train2017.json"
            ),
            "val": component("data.coco", images="coco/val2017", annotations="coco/annotations/instances_val2017.json"),
            "loader": loader(SIDES if size != "n" else (SIDE,)),
        },
        optimizer=component(
            "train.optimizer",
            kind="adamw",
            learning_rate=rate,
            backbone_factor=factor,
            weight_decay=1e-4,
            schedule="constant",
            warmup_steps=500 if kind == "d_fine" else 0,
            clip_norm=0.1,
        ),
        train=component(
            "train.loop",
            batch=batch,
            steps=epochs * epoch,
            evaluate_every=epoch,
            ema_decay=0.9999,
            ema_warmup=1000.0 if kind == "d_fine" else 2000.0,
        ),
    )


def loader(sides):
    buckets = tuple((side, side) for side in sides)
    return component(
        "data.loader",
        buckets=buckets,
        short=(SIDE,),
        long=SIDE,
        fit="stretch",
        bucket_by="step" if len(buckets) > 1 else "shape",
        antialias=True,
        augment=component("data.augment", zoom_out=0.5, crop=0.8, colour=0.5),
    )


def d_fine(size):
    parts = D_FINE[size]
    return component(
        "detectors.d_fine",
        backbone=component("nets.hgnet", **parts["backbone"], norm=NORM),
        neck=component("nets.elan_encoder", **parts["neck"], norm=NORM),
        decoder={**parts["decoder"], "norm": NORM},
    )


def rt_detr(size):
    parts = RT_DETR[size]
    return component(
        "detectors.rt_detr",
        backbone=component("nets.resnet_d", **parts["backbone"]),
        neck=component("nets.hybrid_encoder", **parts["neck"], norm=NORM),
        decoder={**parts["decoder"], "norm": NORM},
        frozen_stages=0 if size == "r50" else -1,
    )


def tiny(kind):
    """A small detector of this kind on blood cells, for a few hundred steps."""
    config = load_recipe("bccd", f"{kind}-alone")
    config.train.steps, config.train.probe_every = 400, 0
    return config


def debug(kind):
    """The tiny one for ten steps."""
    config = tiny(kind)
    config.train.steps, config.train.report_every, config.train.teacher_check = 10, 1, 0
    config.train.evaluate_limit = 8
    return config
