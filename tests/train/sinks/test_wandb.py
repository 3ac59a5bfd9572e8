"""Weights & Biases, by a stand-in for its package: reached, out of reach, and one run however often it goes on."""

import os
import sys
import threading
import time
from functools import partial
from types import ModuleType

import numpy as np
import pytest

from jaxkd.errors import ConfigError
from jaxkd.train.sinks.base import Sink
from jaxkd.train.sinks.threaded import ThreadedSink
from jaxkd.train.sinks.wandb import WeightsAndBiases


class Package(ModuleType):
    """What is used of the package; `runs` is what it was told to open, `rows` what was logged."""

    def __init__(self):
        super().__init__("wandb")
        self.key, self.step, self.fault = True, 0, ""
        self.runs, self.rows, self.settings, self.ids = [], [], {}, set()
        self.config = self
        self.url, self.offline, self.disabled = "https://example.org/run", False, False

    def login(self, *, prompt, verify):
        assert (prompt, verify) == (False, False)
        return self.key

    def Settings(self, **settings):
        self.settings = settings

    def Image(self, array):
        return array.shape

    def init(self, *, mode, settings, **run):
        if run["id"] in self.ids or self.fault == "init":
            raise ValueError("the id is in use")
        if self.fault == "online" and mode != "offline":
            self.ids.add(run["id"])
            raise TimeoutError("no route to host.\nmore")
        self.offline, self.disabled = mode == "offline", mode == "disabled"
        self.runs.append({"mode": mode, **run})
        return self

    def teardown(self):
        self.ids.clear()

    def update(self, values, *, allow_val_change):
        self.rows.append(("config", values))

    def log(self, values, *, step):
        if self.fault == "log":
            raise BrokenPipeError("the pipe is gone")
        self.rows.append((step, values))

    def finish(self):
        if self.fault == "finish":
            threading.Event().wait()


@pytest.fixture
def package(monkeypatch):
    stub = Package()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if "WANDB" not in name})
    return stub


def shown(tmp_path, start=0, *, earlier=(), patience=5.0):
    """What people read of a short run."""
    said, sink = [], WeightsAndBiases("team/cells", tmp_path)
    assert isinstance(sink, Sink)
    thread = ThreadedSink(sink, say=said.append, patience=patience)
    thread.submit(partial(sink.begin, start, earlier))
    thread.submit(partial(sink.text, "recipe", '{"steps": 4}'))
    thread.submit(partial(sink.scalars, start + 2, {"train/loss": 0.5}))
    thread.submit(partial(sink.pictures, start + 2, {"pictures/7": np.zeros((6, 8, 3), np.uint8)}))
    thread.close()
    return said


def test_a_run_that_is_reached(package, tmp_path):
    assert shown(tmp_path) == ["Weights & Biases shows the run: https://example.org/run"]
    (run,) = package.runs
    assert (run["entity"], run["project"], run["name"], run["mode"]) == ("team", "cells", tmp_path.name, None)
    assert package.rows == [
        ("config", {"recipe": {"steps": 4}}),
        (2, {"train/loss": 0.5}),
        (2, {"pictures/7": (6, 8, 3)}),
    ]
    assert 0 < package.settings["init_timeout"] < 60 and 0 < package.settings["finish_timeout"] < 60


def test_a_run_that_goes_on_is_the_same_run_and_sends_no_step_twice(package, tmp_path):
    shown(tmp_path)
    package.step, package.rows = 5, []  # the server has all steps below
    shown(tmp_path, 2, earlier=[(2, {"train/loss": 9.0})])
    assert package.runs[0]["id"] == package.runs[1]["id"] == (tmp_path / "wandb" / "run_id").read_text()
    assert [step for step, _ in package.rows] == ["config"]
    package.step, package.rows = 3, []  # the last one got lost
    shown(tmp_path, 4, earlier=[(2, {"train/loss": 9.0}), (4, {"train/loss": 0.4})])
    assert [step for step, _ in package.rows] == [4, "config", 6, 6]


@pytest.mark.parametrize(("fault", "why"), [("key", "there is no key: wandb login"), ("online", "no route to host")])
def test_out_of_reach_the_run_is_kept(package, tmp_path, fault, why):
    package.fault, package.key = fault, fault != "key"
    assert shown(tmp_path) == [
        f"Weights & Biases is not reached ({why}); the run is kept in {tmp_path / 'wandb'}, and wandb sync sends it."
    ]
    assert [run["mode"] for run in package.runs] == ["offline"]
    assert len(package.rows) == 3


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("init", "the id is in use"),
        ("log", "the pipe is gone"),
        ("finish", "it did not come to its end in 0.2 s"),
    ],
)
def test_a_failure_at_any_time_is_one_line(package, tmp_path, fault, why):
    package.fault, began = fault, time.monotonic()
    said = shown(tmp_path, patience=0.2)
    assert time.monotonic() - began < 2
    assert said[-1] == f"Weights & Biases is left out from here on: {why}. Nothing else is lost."
    assert len(said) == 1 + (fault != "init")


def test_the_mode_of_the_environment_is_left_to_the_package(package, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    package.key = False
    assert shown(tmp_path) == [
        f"Weights & Biases is set to be offline; the run is kept in {tmp_path / 'wandb'}, and wandb sync sends it."
    ]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert shown(tmp_path) == []


def test_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"--wandb needs .*; pip install 'jaxkd-detection\[wandb\]'\.$"):
        WeightsAndBiases("cells", tmp_path)
