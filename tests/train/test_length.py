"""The length of a run by epochs: resolved once the pictures are counted, and the same when the run goes on."""

import json

import pytest
import tiny

from jaxkd import config as configs
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.train import length, log, loop, ownership
from jaxkd.train.rescale import rescale


def test_steps_of_epochs_are_rounded_up():
    recipe = tiny.run(steps=0, train={"epochs": 12, "batch": 8})
    resolved, said = length.resolved(recipe, pictures=205)
    assert (resolved.train.steps, resolved.train.epochs) == (308, 12)
    assert said == "12 epochs of 205 pictures are 308 steps of 8."
    assert length.resolved(resolved, pictures=205)[0].train.steps == 308
    assert recipe.train.steps == 0


def test_steps_alone_stay():
    recipe = tiny.run(steps=7)
    assert length.resolved(recipe, pictures=205) == (recipe, "")


def test_a_recipe_that_says_nothing_about_steps():
    recipe = tiny.run(steps=configs.component("train.loop").steps, train={"epochs": 1})
    assert length.resolved(recipe, pictures=16)[0].train.steps == 4


def test_two_lengths_are_refused():
    recipe = tiny.run(steps=7, train={"epochs": 12})
    with pytest.raises(ConfigError, match=r"epochs=12, which are 48 steps, and train.steps=7; leave one of them 0\."):
        length.resolved(recipe, pictures=16)


def test_no_length_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train.loop.steps must be at least 1, not 0, unless train.epochs"):
        loop.run(tiny.run(steps=0), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_another_batch_leaves_the_epochs():
    recipe = tiny.run(steps=0, train={"epochs": 12, "evaluate_every": 8})
    rescale(recipe, 8)
    assert (recipe.train.steps, recipe.train.epochs, recipe.train.evaluate_every) == (0, 12, 4)


def test_a_run_goes_on_by_its_epochs(tmp_path, monkeypatch):
    recipe = tiny.run(steps=0, train={"epochs": 2, "checkpoint_every": 2, "report_every": 2})
    save = loop.Training._save

    def stopping(training, *args):
        save(training, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_save", stopping)
        with pytest.raises(KeyboardInterrupt):
            loop.run(recipe, tmp_path, quiet=True)
    stored = json.loads((tmp_path / build.RECIPE).read_text())
    assert (stored["train"]["steps"], stored["train"]["epochs"]) == (8, 2)
    assert loop.run(recipe, tmp_path, quiet=True).steps == 6  # from the checkpoint at step 2
    assert [line["step"] for line in log.read(tmp_path) if "loss" in line] == [2, 4, 6, 8]
    assert loop.run(configs.parse(json.dumps(stored)), tmp_path, quiet=True).steps == 0
    ownership.refuse_other(tmp_path, recipe)
    longer = tiny.run(steps=0, train={"epochs": 3, "checkpoint_every": 2, "report_every": 2})
    with pytest.raises(ConfigError, match=r"config.train.epochs was 2 and is now 3"):
        ownership.refuse_other(tmp_path, longer)
