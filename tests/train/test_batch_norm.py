"""Batch norms that train: on one device and on four, in parts, beside frozen stages; and what is stored of them."""

import functools

import jax
import numpy as np
import pytest
import tiny
from jax import numpy as jnp

from jaxkd import config as configs
from jaxkd.data import loader, shapes
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.train import mesh, optimizer
from jaxkd.train.schedules import Scheduled
from jaxkd.train.step import Pair, initial_state, make_step
from jaxkd.weights.tree import flatten

STATISTICS = ("/mean", "/var")


@functools.cache
def batch():
    source = shapes.load(shapes.Config(count=8, size=tiny.SIZE, seed=3))
    loader_config = configs.build(tiny.loader(flip=0.0))
    return next(loader.train_batches(source, loader_config, seed=0, steps=1, batch=4))


@functools.cache
def stepped(norm, *, devices, accumulate=1, frozen_stages=-1, broken=False):
    """The student's leaves before and after a step, and the step's metrics."""
    head = {"norm": norm, "per_level": True}
    detector = build.detector(tiny.gfl(norm=norm, head=head, frozen_stages=frozen_stages), shapes.CLASSES)
    chosen = optimizer.build(optimizer.Config())
    pair = Pair(student=detector, teacher=None, methods={}, optimizer=chosen, accumulate=accumulate)
    meshed = mesh.make_mesh(devices)
    params = detector.init(jax.random.key(0))
    if broken:
        params["head"]["level_0"]["logits"]["bias"] += np.nan
    state = mesh.put_replicated(initial_state(pair, jax.tree.map(jnp.copy, params), jax.random.key(1)), meshed)
    scheduled = Scheduled(np.float32(0.01), {})
    after, metrics = make_step(pair, meshed)(state, {}, scheduled, mesh.put_batch(batch(), meshed))
    leaves = flatten(jax.device_get(after.params["detector"]))
    return flatten(jax.device_get(params)), leaves, {name: float(value) for name, value in metrics.items()}


def test_one_device_and_four_agree_where_the_norms_are_synchronised():
    _, one, metrics = stepped("sync_batch", devices=1)
    _, four, others = stepped("sync_batch", devices=4)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, others[name], rtol=1e-5, atol=1e-5, err_msg=name)
    for name, leaf in one.items():
        np.testing.assert_allclose(leaf, four[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_statistics_of_each_device_are_stored_as_those_of_all():
    """The first norm sees the same numbers in both modes; those behind it see what it made of them."""
    first = [f"backbone/bn1{name}" for name in STATISTICS]
    _, synchronised, metrics = stepped("sync_batch", devices=4)
    before, alone, others = stepped("batch", devices=4)
    for name in first:
        np.testing.assert_allclose(alone[name], synchronised[name], rtol=1e-5, err_msg=name)
        assert (alone[name] != before[name]).any()
    assert abs(metrics["loss"] - others["loss"]) > 1e-4  # the modes are not the same


def test_on_one_device_both_modes_are_one():
    _, synchronised, metrics = stepped("sync_batch", devices=1)
    _, alone, others = stepped("batch", devices=1)
    assert metrics["loss"] == pytest.approx(others["loss"], rel=1e-6)
    for name, leaf in synchronised.items():
        np.testing.assert_allclose(leaf, alone[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_norms_of_frozen_stages_keep_what_they_have():
    before, after, _ = stepped("batch", devices=1, frozen_stages=1)
    frozen = [name for name in before if name.startswith(("backbone/bn1", "backbone/layer1_"))]
    trained = [name for name in before if name.endswith(STATISTICS) and name not in frozen]
    assert frozen and {name.partition("/")[0] for name in trained} == {"backbone", "head"}
    assert all((before[name] == after[name]).all() for name in frozen)
    assert all((before[name] != after[name]).any() for name in trained)


def test_parts_of_a_batch_add_up_in_the_statistics():
    """Norms of two pictures at a time; the first norm's sums are those of the whole batch."""
    _, whole, _ = stepped("batch", devices=1)
    _, parts, _ = stepped("batch", devices=1, accumulate=2)
    for name in STATISTICS:
        np.testing.assert_allclose(parts[f"backbone/bn1{name}"], whole[f"backbone/bn1{name}"], rtol=1e-5, err_msg=name)


def test_a_step_that_is_not_finite_leaves_the_statistics():
    before, after, metrics = stepped("batch", devices=1, broken=True)
    assert metrics["skipped_steps"] == 1
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_a_head_of_all_levels_has_no_batch_norms():
    with pytest.raises(ConfigError, match=r"head\.norm='batch' wants a head for each level"):
        build.detector(tiny.gfl(head={"norm": "batch"}), shapes.CLASSES)
