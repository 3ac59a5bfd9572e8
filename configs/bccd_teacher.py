"""The teacher of the quickstart: MobileNetV2 from ImageNet weights, trained on BCCD blood cells.

Run card
  data      BCCD, 205 pictures to learn from, 87 to validate on; comes with the package
  weights   MobileNetV2 1.0, ImageNet, PyTorch's names, as .npz or .safetensors
  hardware  2 CPU cores, some 20 minutes
  command   jaxkd train --config=bccd_teacher --config.initial=mobilenetv2.npz --workdir=runs/teacher
"""

from jaxkd.config import component, load_recipe


def get_config(arg=""):
    config = load_recipe("bccd", "alone")
    with config.unlocked():
        config.student.backbone = component("nets.mobilenet")
        config.optimizer = component(
            "train.optimizer", learning_rate=0.02, warmup_steps=100, schedule="cosine", clip_norm=10.0
        )
        config.train = component(
            "train.loop",
            batch=8,
            steps=3000,
            evaluate_batch=8,
            report_every=100,
            evaluate_every=500,
            checkpoint_every=1000,
            ema_decay=0.998,
        )
    config.student.neck.channels = 64
    config.student.head.hidden = 256
    config.student.frozen_stages = 1
    config.data.loader.short = (144, 136, 128, 120)
    return config
