import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.data import shapes
from jaxkd.data.loader import Config as LoaderConfig
from jaxkd.data.loader import eval_batches
from jaxkd.evaluation.cost import measure
from jaxkd.types import Batch, Detections


@pytest.fixture(scope="module")
def batch():
    source = shapes.load(shapes.Config(count=1, size=(48, 64)))
    batches = eval_batches(source, LoaderConfig(buckets=((48, 64),), short=(48,), long=64), batch=1)
    yield next(batches)
    batches.close()


def detect(params: dict, batch: Batch) -> Detections:
    """One product of a matrix and a vector, and boxes that depend on it."""
    score = (params["matrix"] @ params["vector"]).sum() + params["inner"]["bias"].sum()
    ones = jnp.ones((len(batch.ids), 2))
    return Detections(
        boxes=jnp.ones((len(batch.ids), 2, 4)) * score,
        scores=ones * score,
        labels=ones.astype(jnp.int32),
        valid=ones.astype(bool),
    )


def params(side: int) -> dict:
    return {
        "matrix": jnp.ones((side, side)),
        "vector": jnp.ones(side),
        "inner": {"bias": np.ones(3, np.float32)},
    }


def test_parameters_are_counted_leaf_by_leaf(batch):
    assert measure(detect, params(10), batch, repeats=1).parameters == 10 * 10 + 10 + 3


def test_operations_follow_the_size_of_the_product(batch):
    small, large = (measure(detect, params(side), batch, repeats=1).gflops for side in (256, 512))
    assert small == pytest.approx(2 * 256**2 / 1e9, rel=0.05)
    assert large / small == pytest.approx(4, rel=0.05)


def test_the_time_is_a_median_of_milliseconds(batch, monkeypatch):
    ticks = iter([0.0, 9.0] * 3 + [0.0, 0.001, 0.0, 0.004, 0.0, 0.5])  # three that warm up, then three that count
    monkeypatch.setattr("jaxkd.evaluation.cost.time.perf_counter", lambda: next(ticks))
    assert measure(detect, params(4), batch, repeats=3, seconds=30.0).milliseconds == pytest.approx(4.0)


def test_nine_of_ten_stay_below_p90_and_a_batch_is_shared(batch, monkeypatch):
    times = [9.0] * 3 + [0.010] * 9 + [0.110, 0.110]  # eleven that count: the tenth of them in order is p90
    ticks = iter([tick for time in times for tick in (0.0, time)])
    monkeypatch.setattr("jaxkd.evaluation.cost.time.perf_counter", lambda: next(ticks))
    four = jax.tree.map(lambda leaf: jnp.repeat(leaf, 4, axis=0), batch)
    cost = measure(detect, params(512), four, repeats=11, seconds=30.0)
    assert (cost.pictures, cost.milliseconds, cost.p90) == (4, pytest.approx(10.0), pytest.approx(110.0))
    assert cost.per_second == pytest.approx(400.0)
    assert cost.gflops == pytest.approx(2 * 512**2 / 1e9 / 4, rel=0.05)  # one product for all four


def test_slow_ones_are_measured_less_often(batch, monkeypatch):
    ticks = iter([0.0, 20.0] * 6)
    monkeypatch.setattr("jaxkd.evaluation.cost.time.perf_counter", lambda: next(ticks))
    assert measure(detect, params(4), batch, seconds=30.0).milliseconds == pytest.approx(20_000.0)
    assert next(ticks, None) is None  # three that warm up and three that count


def test_it_compiles_once(batch):
    traced = []

    def counting(params: dict, batch: Batch) -> Detections:
        traced.append(1)
        return detect(params, batch)

    cost = measure(counting, params(4), batch, repeats=5)
    assert len(traced) == 1
    assert math.isfinite(cost.milliseconds)
    assert cost.milliseconds > 0
