"""Global knowledge on Pascal VOC 07+12: Faster R-CNN R101 teaches R50, which starts from its finished self.

Run card
  paper     Tang et al. 2022 (arXiv 2210.09022) has VOC in its abstract; its tables and recipe are not public
  expects   more than its control; no figure is known to us
  data      VOC 07+12, as in voc.py
  weights   both finished detectors: voc:faster_rcnn-r50 and voc:faster_rcnn-r101
  hardware  4 accelerators with 16 GB; estimated: 4 hours
  command   jaxkd train --config=gkd_voc --workdir=runs/gkd-voc
  arguments none; control for the same run untaught; tiny, debug, control-tiny, control-debug: see coco.py
"""

from jaxkd.config import load_recipe


def get_config(arg=""):
    config = load_recipe("gkd_coco", "-".join(["faster_rcnn", *filter(None, [arg])]))
    if {"tiny", "debug"} & set(arg.split("-")):
        return config
    plain = load_recipe("voc", "faster_rcnn-r50")
    config.initial = "runs/voc-r50/student"
    if config.teacher:
        config.teacher = "runs/voc-r101/student"
    with config.unlocked():
        config.data, config.optimizer, config.train = plain.data, plain.optimizer, plain.train
    return config
