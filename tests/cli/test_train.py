"""Training on the command line: a first run, a taught one, one that goes on, and one that is finished."""

import json
import shutil
import sys
import time
from types import ModuleType

import projects
import pytest

from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.train import log, loop


def test_a_run_alone(runs):
    said = runs.said["alone"]
    assert said.err == ""
    assert "2 classes, 8 pictures to train, 2 pictures to val" in said.out
    assert "The student starts from random numbers." in said.out
    assert "step 4/4" in said.out
    assert all(f"{name} " in said.out for name in ("square", "bar"))
    assert f"is in {runs.alone / 'student'}." in said.out
    reports = [line for line in log.read(runs.alone) if "loss" in line]
    assert [line["step"] for line in reports] == [2, 4]
    assert not any(name.startswith(("tar", "mimic")) for name in reports[0])


def test_a_taught_run(runs):
    said = runs.said["taught"]
    assert "The teacher scores AP" in said.out
    reports = [line for line in log.read(runs.taught) if "loss" in line]
    assert {name.partition("/")[0] for name in reports[0]} >= {"tar", "mimic"}
    assert all(line["skipped_steps"] == 0 for line in reports)


def test_the_student_of_either_run_is_a_detector_of_its_own(runs):
    alone, taught = build.load(runs.alone / "student"), build.load(runs.taught / "student")
    assert alone.detector.classes == taught.detector.classes == ("square", "bar")
    assert set(alone.params) == set(taught.params) == {"backbone", "neck", "rpn", "head"}
    assert "AP50" in alone.scores


def test_the_saved_recipe_is_complete(runs):
    saved = json.loads((runs.taught / "config.json").read_text())
    assert saved["teacher"] == str(runs.alone / "student")
    assert saved["train"]["steps"] == 4
    assert saved["distill"]["tar"]["feature"]["canonical_scale"] == 28.0
    assert saved["student"]["rpn"]["nms"] == 0.7  # a default that the recipe does not mention


def test_a_finished_run_says_so_and_changes_nothing(runs, tmp_path):
    workdir = shutil.copytree(runs.alone, tmp_path / "again")
    before = {name: digest for name, (_, digest) in projects.listing(workdir).items()}
    began = time.monotonic()
    outcome = runs.project.train(workdir)
    assert time.monotonic() - began < 30
    assert outcome.code == 0, outcome
    assert "The run was finished at step 4; there is nothing left to train." in outcome.out
    assert "step 1/4" not in outcome.out
    after = {name: digest for name, (_, digest) in projects.listing(workdir).items()}
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == set()


def test_another_batch_takes_learning_rate_and_steps_along(runs, tmp_path, monkeypatch):
    seen = []

    def refuse(recipe, *args, **fields):
        seen.append(recipe)
        raise ConfigError("Seen.")

    monkeypatch.setattr(loop, "run", refuse)
    for flags in ((), ("--batch=4",)):
        assert runs.project.train(tmp_path / "run", *flags).err == "jaxkd train: Seen.\n"
    before, after = seen
    factor = 4 / before.train.batch
    assert (after.train.batch, after.train.steps) == (4, round(before.train.steps / factor))
    assert after.optimizer.learning_rate == pytest.approx(before.optimizer.learning_rate * factor)


def test_a_stopped_run_goes_on(runs, tmp_path, monkeypatch):
    from jaxkd.train.training import Training

    workdir = tmp_path / "run"
    save = Training._save

    def stop(training, *args):
        save(training, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "_save", stop)
    outcome = runs.project.train(workdir, "--config.train.checkpoint_every=2")
    assert outcome.code == 130
    assert outcome.err == "jaxkd train: stopped; the same command goes on from the last checkpoint.\n"
    monkeypatch.setattr(Training, "_save", save)
    outcome = runs.project.train(workdir, "--config.train.checkpoint_every=2")
    assert outcome.code == 0, outcome
    assert "Going on from the checkpoint at step 2." in outcome.out
    assert [line["step"] for line in log.read(workdir) if "loss" in line] == [2, 4]


def test_quiet_is_quiet(runs, tmp_path):
    workdir = shutil.copytree(runs.alone, tmp_path / "quiet")
    outcome = runs.project.train(workdir, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_a_run_shown_in_tensorboard_is_the_same_run(runs, tmp_path):
    workdir = tmp_path / "run"
    outcome = runs.project.train(workdir, "--tensorboard")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"TensorBoard shows the run: tensorboard --logdir={workdir / 'tensorboard'}" in outcome.out
    (file,) = (workdir / "tensorboard").iterdir()
    content = file.read_bytes()
    for name in (b"train/loss", b"val/AP50", b"time/step_seconds", b"recipe/text_summary", b"pictures/9"):
        assert name in content
    theirs, mine = ((folder / "student" / "weights.safetensors").read_bytes() for folder in (runs.alone, workdir))
    assert theirs == mine
    assert json.loads((workdir / "config.json").read_text()) == json.loads((runs.alone / "config.json").read_text())


def test_a_run_with_a_network_that_is_down_ends_well(runs, tmp_path, monkeypatch):
    stub = ModuleType("wandb")  # without anything in it: whatever is asked of it fails
    monkeypatch.setitem(sys.modules, "wandb", stub)
    outcome = runs.project.train(tmp_path / "run", "--wandb=cells")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("Weights & Biases is left out from here on: ") == 1
    assert "step 4/4" in outcome.out


def test_a_missing_extra_is_said_before_anything_is_done(runs, tmp_path, monkeypatch, refused):
    for flag, package in (("--tensorboard", "tensorboardX"), ("--wandb=cells", "wandb")):
        monkeypatch.setitem(sys.modules, package, None)
        outcome = runs.project.train(tmp_path / "run", flag)
        name = flag.lstrip("-").partition("=")[0]
        refused(outcome, 64, f"pip install 'jaxkd-detection[{name}]'.")
    assert not (tmp_path / "run").exists()
