"""What the loop over steps says on the way."""

from types import SimpleNamespace

import jax.numpy as jnp
import tiny
import toy_teachers

from jaxkd.loading import build
from jaxkd.train.clock import Clock
from jaxkd.train.lesson import Lesson
from jaxkd.train.training import Training


def test_how_unlike_the_parts_of_a_batch_count_is_said_once():
    said = []
    log = SimpleNamespace(report=lambda *_, **__: None, say=said.append)
    config = SimpleNamespace(accumulate=4, steps=3, evaluate_every=0)
    run = SimpleNamespace(log=log, config=config, recipe=tiny.run(), spread_reported=False)
    row = {name: jnp.zeros(()) for name in ("loss", "skipped_steps", "skipped_in_a_row")}
    Training._report(run, 1, [row], Clock())
    assert said == []
    for done, spread in ((2, 0.25), (3, 0.5)):
        Training._report(run, done, [row | {"count_spread": jnp.asarray(spread)}], Clock())
    assert len(said) == 1 and "in 4 parts (train.accumulate)" in said[0] and "by up to 25%" in said[0]


def test_a_teacher_without_detections_is_not_scored_and_that_is_said():
    said = []
    run = SimpleNamespace(log=SimpleNamespace(say=said.append))
    maps = toy_teachers.FeatureMaps(("one",))
    student = build.detector(tiny.detector(), ("one",))
    Training.check_teacher(run, build.Loaded(maps, {}, None, {}, {}), Lesson(student, maps, {}))
    assert said == ["The teacher gives no detections, so it is not scored before the first step."]
