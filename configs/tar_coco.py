"""Task-adaptive regularisation on COCO: Faster R-CNN R101 teaches R50.

Run card
  paper     Sun et al. 2020 (arXiv 2006.13108), the abstract's row: teacher 38.5, student alone 36.3, taught 39.0
  expects   the gain of the paper, 2.7 on val2017 (36.3 to 39.0, of mmdetection 1); untaught this schedule gives 37.4 in
            mmdetection 2, the figure of coco.py
  data      COCO 2017, as in coco.py
  weights   weights/resnet50.pth for the student; the teacher: coco:faster_rcnn-r101, or any published R101
  hardware  8 accelerators with 16 GB; estimated: 16 hours
  command   jaxkd train --config=tar_coco --config.teacher=runs/faster_rcnn-r101/student --workdir=runs/tar
  arguments none; alone for the same run untaught; tiny, debug, alone-tiny, alone-debug: see coco.py
"""

from jaxkd.config import component, load_recipe


def get_config(arg=""):
    options = {option for option in arg.split("-") if option}
    small = options & {"tiny", "debug"}
    if options - small - {"alone"}:
        raise ValueError(f"{arg} is not known")
    config = load_recipe("coco", "-".join(["faster_rcnn", "r50", *small]))
    if "alone" in options:
        return config
    with config.unlocked():
        if small:
            taught = load_recipe("bccd", "tar")
            config.teacher, config.distill = taught.teacher, taught.distill
        else:
            config.teacher = "runs/faster_rcnn-r101/student"
            config.distill.tar = component("distill.task_adaptive")
    return config
