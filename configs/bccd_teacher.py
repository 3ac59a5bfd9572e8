"""The teacher of the quickstart: MobileNetV2 from ImageNet weights, trained on BCCD blood cells.

Run card
  data      BCCD, 205 pictures to learn from, 87 to validate on; comes with the package
  weights   MobileNetV2 1.0, ImageNet, PyTorch's names, as .npz or .safetensors
  hardware  2 CPU cores, some 20 minutes
  command   jaxkd train --config=bccd_teacher --config.initial=mobilenetv2.npz --workdir=runs/teacher
"""

from jaxkd.config import component, recipe

SIZE = (144, 192)


def get_config(arg=""):
    return recipe(
        student=component(
            "detectors.faster_rcnn",
            backbone=component("nets.mobilenet"),
            neck=component("nets.fpn", channels=64, extra="none"),
            anchor_sizes=(8.0, 16.0, 32.0, 64.0),
            rpn_samples=64,
            pre_nms_train=256,
            pre_nms_test=256,
            post_nms_train=128,
            post_nms_test=128,
            roi_samples=64,
            roi_scale=56.0,
            hidden=256,
            candidates=256,
            frozen_stages=1,
            detections=60,
        ),
        data={
            "train": component("data.coco", images="assets:bccd/images", annotations="assets:bccd/train.json"),
            "val": component("data.coco", images="assets:bccd/images", annotations="assets:bccd/val.json"),
            "loader": component(
                "data.loader", buckets=(SIZE,), short=(144, 136, 128, 120), long=SIZE[1], max_objects=40, cache=False
            ),
        },
        optimizer=component("train.optimizer", learning_rate=0.02, warmup_steps=100, schedule="cosine", clip_norm=10.0),
        train=component(
            "train.loop",
            batch=8,
            steps=3000,
            evaluate_batch=8,
            report_every=100,
            evaluate_every=500,
            checkpoint_every=1000,
            ema_decay=0.998,
        ),
    )
