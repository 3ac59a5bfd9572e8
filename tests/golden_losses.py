"""The first losses of shipped recipes, term by term: what a change that is to change nothing is held against.

    python tests/golden_losses.py            # compares all steps with what is written, to the last bit
    python tests/golden_losses.py --record   # writes them anew, after a change that is meant

Numbers are equal to the bit only on the machine, and with the versions, that wrote them.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import quick_compile

FOLDER = Path(__file__).parent / "golden" / "losses"
RUNS = ("alone", "tar", "gkd", "tar+gkd", "retinanet-tar", "mimic")
STEPS = 40
SMALL = {  # five steps are an epoch; prototypes are found anew after steps 10, 20 and 30
    "student.rpn": {"pre_nms_train": 64, "post_nms_train": 32},
    "student.rois": {"samples": 16},
    "data.train": {"limit": 20},
    "data.val": {"limit": 8},
    "data.loader": {"buckets": ((96, 128),), "short": (96,), "long": 128},
    "distill.gkd": {"start_epoch": 2, "refresh_every": 2},
    "optimizer": {"warmup_steps": 5},
    "train": {
        "steps": STEPS,
        "batch": 4,
        "devices": 1,
        "evaluate_batch": 4,
        "report_every": 1,
        "checkpoint_every": 0,
        "probe_every": 0,
        "teacher_check": 0,
    },
}
OF_TIME = ("step", "step_seconds", "data_wait_share", "refresh_seconds")


def run(argument, workdir):
    """What a small run of `bccd:argument` reports at each step, and the AP at its end."""
    from jaxkd import config as configs
    from jaxkd.train import log, loop

    recipe = configs.load_recipe("bccd", argument)
    for part, values in SMALL.items():
        target = recipe
        for name in part.split("."):
            target = target.get(name, {})
        for name, value in values.items():
            if name in target:
                target[name] = value
    finished = loop.run(recipe, workdir, quiet=True)
    lines = [line for line in log.read(workdir) if "loss" in line]
    rows = [{name: value for name, value in line.items() if name not in OF_TIME} for line in lines]
    return {"steps": rows, "AP": finished.evaluation.scores.summary["AP"]}


def golden(argument):
    """What is written of `bccd:argument`."""
    return json.loads((FOLDER / f"bccd_{argument}.json").read_text())


def main(*flags):
    """Records or compares; the exit code is 0 where all numbers are the same."""
    differ = []
    for argument in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            found = run(argument, Path(folder) / "run")
        if "--record" in flags:
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / f"bccd_{argument}.json").write_text(json.dumps(found, indent=1) + "\n")
        wanted = golden(argument)
        first = next((i + 1 for i, (a, b) in enumerate(zip(found["steps"], wanted["steps"], strict=True)) if a != b), 0)
        same = found == wanted
        print(f"bccd:{argument:<14} AP {found['AP']!r}  " + ("equal" if same else f"differs from step {first}"))
        differ += [] if same else [argument]
    return len(differ)


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = quick_compile.FLAGS
    sys.exit(main(*sys.argv[1:]))
