"""Runs what README, docs/your_data.md and commands print, in an installation that has nothing but what it declares.

    python tests/smoke.py PYTHON             # every command that needs no extra
    python tests/smoke.py PYTHON onnx        # those that need the extra, in an environment that has it alone

PYTHON is the interpreter of the environment. Commands run in a folder of their own, with a home folder of their own;
only their sizes are changed, and what XLA makes of their programs: little optimised, and kept between commands, so
that each takes seconds. `make smoke` builds the environments.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / ".smoke" / "programs"  # what XLA compiled, for all environments
# What a command of README needs beyond the declared dependencies, by a word of it.
NEEDS = {
    "git": "a network",
    "make": "the repository, and is what calls this",
    "pip": "the repository",
    "launch/tpu_pod.sh": "a cloud",
    "source": "the repository",
    "--format=onnx": "onnx",
    "exported/detect.py": "onnx",
}
EXTRAS = {  # what each extra is for
    "onnx": ("jaxkd export --workdir=runs/alone --format=onnx --out=onnx", "python onnx/detect.py one.jpg"),
    "tflite": (
        "jaxkd export --workdir=runs/alone --format=tflite --out=tflite",
        "python tflite/detect.py one.jpg",
        "jaxkd export --workdir=runs/alone --format=tflite --int8 --out=int8",
        "jaxkd export --workdir=runs/alone --format=savedmodel --out=savedmodel",
        "python savedmodel/detect.py one.jpg",
    ),
    "tensorboard": ("jaxkd train --config=student.py:alone --workdir=runs/shown --tensorboard",),
    "wandb": ("jaxkd train --config=student.py:alone --workdir=runs/shown --wandb=blood",),
    "tpu": ("jaxkd preflight --config=bccd:tar --topology=v5e:2x2 --plan --batch=8",),
}
MISSING = {  # without the extra, one sentence and how to install it; the exit code is 64
    "jaxkd export --workdir=runs/alone --format=onnx --out=none": "[onnx]",
    "jaxkd export --workdir=runs/alone --format=tflite --out=none": "[tflite]",
    "jaxkd train --config=student.py:alone --workdir=runs/none --tensorboard": "[tensorboard]",
    "jaxkd train --config=student.py:alone --workdir=runs/none --wandb=blood": "[wandb]",
    "jaxkd preflight --config=bccd:tar --topology=v5e:2x2": "[tpu]",
}
SMALL = shlex.split(
    "--config.train.steps=4 --config.train.batch=2 --config.train.devices=1 --config.train.report_every=2 "
    "--config.train.evaluate_every=0 --config.train.evaluate_batch=2 --config.train.evaluate_limit=4 "
    "--config.train.probe_every=0 --config.train.teacher_check=2 --config.data.loader.buckets=((96,128),) "
    "--config.data.loader.short=(96,) --config.data.loader.long=128"
)
ALIKE = shlex.split(  # the teacher of the student's kind, so that no other program is compiled
    "--config.student.backbone.depth=10 --config.student.backbone.groups=8 --config.student.head.hidden=64 "
    "--config.student.neck.channels=16"
)
PICTURES = ("one.jpg", "two.jpg", "validation.jpg", "holiday/a.jpg", "holiday/b.png")
PREPARE = """
import sys, json, pathlib, cv2
from jaxkd.paths import path_of
sys.path.insert(0, {tests!r})
import torch_writer, torchvision_state
here, source = pathlib.Path("."), path_of("assets:bccd")
for folder in ("mine/images", "holiday"):
    (here / folder).mkdir(parents=True)
for split, count in (("train", 6), ("val", 4)):
    content = json.loads((source / (split + ".json")).read_text())
    content["images"] = content["images"][:count]
    kept = {{image["id"] for image in content["images"]}}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    for image in content["images"]:
        picture = cv2.imread(str(source / "images" / image["file_name"]))
        if split == "val" and image is content["images"][0]:
            image["file_name"] = "validation.jpg"
        cv2.imwrite(str(here / "mine/images" / image["file_name"]), picture)
    (here / "mine" / (split + ".json")).write_text(json.dumps(content))
film = cv2.VideoWriter("walk.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 5, (320, 240))
for number in range(3):
    film.write(picture)
film.release()
for name in {pictures!r}:
    cv2.imwrite(name, picture)
for name, classes in (("fasterrcnn_resnet50_fpn_coco.pth", 91), ("mine.pth", 3)):
    state = torchvision_state.random_state_dict("faster_rcnn", 18, 1, classes, 0, width=8, channels=16, hidden=32)
    torch_writer.save(pathlib.Path(name), state)
both = {{f"{{part}}.{{name}}": array for part in ("student", "teacher") for name, array in state.items()}}
torch_writer.save(pathlib.Path("both.pth"), both)
"""


def commands_of(page, *, language):
    """Every line of a page's blocks of this language that a shell would run, comments taken off."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for opening, block in re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if opening != language:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                found.append(shlex.join(words))
    return found


class Environment:
    """An interpreter, a folder to work in, and what was run there."""

    def __init__(self, python, folder):
        self.python, self.folder, self.ran = python, folder, 0
        flags = subprocess.check_output([python, ROOT / "tests" / "quick_compile.py"], text=True)
        keep = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
        self.variables = keep | {
            "HOME": str(folder / "home"),
            "WANDB_MODE": "offline",
            "NO_COLOR": "1",
            "XLA_FLAGS": flags.strip(),
            "JAX_COMPILATION_CACHE_DIR": str(PROGRAMS),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        (folder / "home").mkdir()

    def call(self, words):
        """A command's exit code, and all that it says."""
        arguments = {"jaxkd": [self.python, "-P", "-m", "jaxkd.cli.main"], "python": [self.python, "-P"]}[words[0]]
        done = subprocess.run(
            [*arguments, *words[1:]],
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout

    def run(self, line, *, wanted=0, words=()):
        """Runs a line, made small; ends the program where its exit code or its words are not those wanted."""
        began = time.monotonic()
        code, said = self.call(small(shlex.split(line)))
        self.ran += 1
        print(f"{time.monotonic() - began:6.1f} s  exit {code:2}  {line}", flush=True)
        if code != wanted or "Traceback" in said or not all(word in said for word in words):
            sys.exit(f"{said}\nsmoke: {line} ended with {code} and not {wanted}, or without {words}.")
        return said


def small(words):
    """A command with few steps on few, small pictures."""
    if "--help" in words:
        return words
    if words[1] == "train":
        alike = ALIKE if any(word.startswith("--config=teacher.py") for word in words) else []
        return [word for word in words if not word.startswith("--config.train.steps=")] + SMALL + alike
    if words[1] == "export":
        return [*words, "--check=2", *(["--calibration=2"] if "--int8" in words else [])]
    if words[1] == "quickstart":
        return [*words, "--steps=4"]
    if words[1] == "distill":
        return [*words, "--epochs=1", "--anyway", "--augment=none", "--size=fast"]
    if words[1] == "compare":
        return [*words, "--resamples=100"]
    return words


def recipes(folder):
    """Writes student.py and teacher.py, as the page shows them."""
    text = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
    for name, code in re.findall(r'^```python title="((?:student|teacher)\.py)"\n(.*?)^```$', text, re.M | re.S):
        (folder / name).write_text(code, encoding="utf-8")


def core(environment):
    """What these pages, the quickstart and messages print, where no extra is there."""
    quickstart = environment.run("jaxkd quickstart")
    printed = re.findall(r"^  (jaxkd .*)$", quickstart, re.MULTILINE)
    if len(printed) < 2:
        sys.exit(f"{quickstart}\nsmoke: the quickstart prints no commands to go on with.")
    left = [*commands_of("README.md", language=""), *commands_of("docs/your_data.md", language="console")]
    left = [line for line in left if not any(word in NEEDS for word in shlex.split(line))]
    for line in [*printed, *left]:
        environment.run(line)
    environment.run("jaxkd --help")
    environment.run("jaxkd --version")
    for name in re.findall(r"^  (\w+) ", environment.call(["jaxkd", "--help"])[1], re.MULTILINE):
        environment.run(f"jaxkd {name} --help")
    environment.run("python exported/detect.py one.jpg")
    environment.run("jaxkd convert mine.pth --out=teachers/none", wanted=66, words=("--classes=",))
    for line, extra in MISSING.items():
        environment.run(line, wanted=64, words=(f"jaxkd-detection{extra}'.",))


def main(python, extra=""):
    """Runs everything; the exit code is 0 where all of it went well."""
    folder = Path(tempfile.mkdtemp(prefix="jaxkd-smoke-"))
    try:
        environment = Environment(str(Path(python).absolute()), folder)
        recipes(folder)
        (folder / "prepare.py").write_text(PREPARE.format(tests=str(ROOT / "tests"), pictures=PICTURES))
        environment.run("python prepare.py")
        if extra:
            environment.run("jaxkd train --config=student.py:alone --workdir=runs/alone")
            for line in EXTRAS[extra]:
                environment.run(line)
        else:
            core(environment)
        print(f"smoke: {environment.ran} commands went well{extra and f' with {extra}'}.")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
