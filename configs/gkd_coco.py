"""Global knowledge on COCO: Faster R-CNN or RetinaNet R101 teaches R50, which starts from its finished self.

Run card
  paper     Tang et al. 2022 (arXiv 2210.09022), tables for COCO: Faster R-CNN teacher 39.8, student 38.4, taught 40.6;
            RetinaNet teacher 38.9, student 37.4, taught 39.8
  expects   AP 40.6 and 39.8; the control, the same start and epochs without a teacher, is not in the paper
  data      COCO 2017, as in coco.py
  weights   both finished detectors: coco:faster_rcnn-r50-2x and coco:faster_rcnn-r101-2x (or retinanet)
  hardware  8 accelerators with 24 GB; estimated: 36 hours; RetinaNet's recipe is inferred from Faster R-CNN's
  command   jaxkd train --config=gkd_coco:faster_rcnn --workdir=runs/gkd
  arguments faster_rcnn or retinanet; then -control for the same run untaught, -tar for both papers' methods together;
            -tiny or -debug: see coco.py; these start from random numbers
"""

from jaxkd.config import component, load_recipe

METHODS = {"gkd": "distill.global_knowledge", "tar": "distill.task_adaptive"}


def get_config(arg="faster_rcnn"):
    detector, *rest = arg.split("-")
    options = set(rest)
    small = options & {"tiny", "debug"}
    if detector not in ("faster_rcnn", "retinanet") or options - small - {"control", "tar"}:
        raise ValueError(f"{arg} is not known")
    methods = [name for name in METHODS if name == "gkd" or name in options]
    config = load_recipe("coco", "-".join([detector, "r50", *(small or ["2x"])]))
    if not small:
        config.initial = f"runs/{detector}-r50-2x/student"
    if "control" in options:
        return config
    with config.unlocked():
        if small:
            taught = load_recipe("bccd", {"retinanet": "retinanet-"}.get(detector, "") + "+".join(methods))
            config.teacher, config.distill = taught.teacher, taught.distill
        else:
            config.teacher = f"runs/{detector}-r101-2x/student"
            for name in methods:
                config.distill[name] = component(METHODS[name])
    return config
