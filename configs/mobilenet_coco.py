"""A student for small devices: MobileNetV2 under Faster R-CNN, taught by R50 with task-adaptive regularisation.

Run card
  paper     Sandler et al. 2018 (arXiv 1801.04381) and Sun et al. 2020 (2006.13108); no paper has this pair
  expects   more than the same run alone; no figure is known to us
  data      COCO 2017, as in coco.py
  weights   weights/mobilenet_v2.pth for the student; the teacher: coco:faster_rcnn-r50-2x, or any published R50
  hardware  8 accelerators with 16 GB; estimated: 10 hours
  command   jaxkd train --config=mobilenet_coco --config.teacher=faster_rcnn_r50.pth --workdir=runs/mobilenet
  arguments none; alone for the same run untaught; tiny, debug, alone-tiny, alone-debug: see coco.py
"""

from jaxkd.config import load_recipe


def get_config(arg=""):
    config = load_recipe("tar_coco", arg)
    small = {"tiny", "debug"} & set(arg.split("-"))
    plain = load_recipe("coco", "-".join(["faster_rcnn", "mobilenet", *small]))
    with config.unlocked():
        config.student, config.initial = plain.student, plain.initial
    config.student.neck.channels = config.student.neck.channels if small else 128
    if config.teacher and not small:
        config.teacher = "runs/faster_rcnn-r50-2x/student"
    return config
