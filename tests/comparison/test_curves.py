"""Curves of a run, read from its log."""

import json

import numpy as np
import pytest

from jaxkd.comparison import curves
from jaxkd.comparison.records import Series


@pytest.fixture
def workdir(tmp_path):
    lines = [
        {"step": 10, "step_seconds": 0.2, "loss": 2.0, "box": 1.0, "tar/decay": 1.0},
        {"step": 10, "refreshed": ["gkd"], "refresh_seconds": 3.0},
        {"step": 20, "step_seconds": 0.4, "loss": None, "box": 0.5, "tar/decay": 0.5},
        {"step": 20, "scores": {"AP": 0.4, "APs": None}},
        {"step": 30, "step_seconds": 0.3, "loss": 1.0, "box": 0.25, "tar/decay": 0.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 40, "lo')
    return tmp_path


def test_a_log_as_series(workdir):
    found = curves.read(workdir, steps=40)
    assert found.steps == 40
    assert found.reported["loss"] == Series((10, 30), (2.0, 1.0))
    assert found.reported["box"] == Series((10, 20, 30), (1.0, 0.5, 0.25))
    assert found.scores == {"AP": Series((20,), (0.4,))}
    assert curves.last_step(found) == 30
    assert curves.step_seconds(found) == 0.3


def test_a_run_without_a_log(tmp_path):
    found = curves.read(tmp_path, steps=40)
    assert (found.reported, found.scores, curves.last_step(found)) == ({}, {}, 0)
    assert np.isnan(curves.step_seconds(found))
    assert np.isnan(curves.step_seconds(None))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("loss", "loss"),
        ("rpn_box", "term"),
        ("tar/decay", "decay"),
        ("tar/class_gate", "gate"),
        ("tar/feature_16", "method"),
        ("mine/part/decay", "decay"),
        ("gradient_norm", "other"),
        ("gradient_ratio/tar/box", "ratio"),
        ("balance/tar/box", "decay"),
        ("step_seconds", "other"),
    ],
)
def test_what_a_key_stands_for(key, kind):
    assert curves.kind(key) == kind


def test_long_curves_are_thinned_and_end_where_they_end():
    steps = tuple(range(1, 1001))
    thin = curves.thinned(Series(steps, tuple(float(step) for step in steps)))
    assert len(thin.steps) == curves.POINTS
    assert thin.steps[-1] == 1000
    assert thin.values[0] == pytest.approx(3.0)  # the mean of 1 to 5
    short = Series((1, 2), (1.0, 2.0))
    assert curves.thinned(short) == short
    assert curves.thinned(Series((), ())) == Series((), ())
