"""Faster R-CNN on Pascal VOC 07+12, untaught: teachers, and students to compare with.

Run card
  paper     Ren et al. 2015 (arXiv 1506.01497), with a feature pyramid
  expects   no figure of the two distillation papers is public for VOC; compare with the same recipe untaught
  data      VOCdevkit/VOC2007 and VOCdevkit/VOC2012: trainval of both years, test of 2007; VOC AP by eleven recalls
  weights   the backbone's from ImageNet, as torchvision publishes them, in weights/
  hardware  one accelerator with 16 GB and --batch=4, or 4 of them; estimated: 2 hours on 4
  command   jaxkd train --config=voc:faster_rcnn-r50 --workdir=runs/voc-r50
  arguments DETECTOR-BACKBONE as in coco.py; then -tiny or -debug
"""

from jaxkd.config import component, load_recipe

EPOCH = 16551 // 16  # steps over both trainval splits
SIZES = {"buckets": ((608, 1024), (1024, 608)), "short": (600,), "long": 1000}


def get_config(arg="faster_rcnn-r50"):
    config = load_recipe("coco", arg)
    if {"tiny", "debug"} & set(arg.split("-")):
        return config
    with config.unlocked():
        config.data.train = component("data.voc", splits=("2007_trainval", "2012_trainval"))
        config.data.val = component("data.voc", splits=("2007_test",))
        if config.data.loader.short == component("data.loader").short:  # a light student has squares of its own
            config.data.loader = component("data.loader", **SIZES)
        config.optimizer.milestones = (9 / 12,)
    config.optimizer.learning_rate *= 0.5
    config.train.steps, config.train.evaluate_every = 12 * EPOCH, 3 * EPOCH
    return config
