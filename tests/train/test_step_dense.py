"""A taught step of RetinaNet with three methods, one of which weighs by another's reliabilities."""

import jax
import numpy as np
import pytest
import tiny

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.distill import decay
from jaxkd.errors import ConfigError
from jaxkd.train import build, mesh, optimizer
from jaxkd.train.step import Pair, check_trust, initial_state, make_step


def make_pair(source, **tar):
    """RetinaNet taught by a wider one."""
    methods = {
        "tar": component("distill.task_adaptive", level_scale=28.0, adapt_init="lecun", **tar),
        "gkd": component("distill.global_knowledge", count=3, level_scale=28.0),
        "mimic": component("distill.mimic", sigma_from="gkd"),
    }
    methods = {name: configs.build(method) for name, method in methods.items()}
    return Pair(
        student=build.detector(tiny.retinanet(), source.classes),
        teacher=build.detector(tiny.retinanet(width=12, channels=24), source.classes),
        methods=methods,
        decays={name: decay.schedule(method.decay, steps=10, steps_per_epoch=5) for name, method in methods.items()},
        optimizer=optimizer.build(optimizer.Config(learning_rate=0.01, warmup_steps=0), steps=10),
    )


@pytest.fixture(scope="module")
def source():
    return shapes.load(shapes.Config(count=8, size=tiny.SIZE, seed=3))


@pytest.fixture(scope="module")
def pair(source):
    return make_pair(source, sigma_from="gkd")


def stepped(pair, source, *, devices):
    """Metrics and parameters after one step from prototypes of a random past, and the step's program."""
    meshed = mesh.make_mesh(devices)
    batch = next(loader.train_batches(source, configs.build(tiny.loader()), seed=0, steps=1, batch=4))
    state = initial_state(pair, pair.student.init(jax.random.key(0)), jax.random.key(1))
    draw = np.random.default_rng(0)

    def fill(leaf):
        return {"f": draw.normal(size=leaf.shape).astype(np.float32), "b": np.ones(leaf.shape, bool)}.get(
            leaf.dtype.kind, np.zeros(leaf.shape, np.int32)
        )

    state = state.replace(memory=jax.tree.map(fill, jax.device_get(state.memory)))
    state, frozen = (mesh.put_replicated(tree, meshed) for tree in (state, pair.teacher.init(jax.random.key(7))))
    batch = mesh.put_batch(batch, meshed)
    compiled = make_step(pair, meshed).lower(state, frozen, batch).compile()
    after, metrics = compiled(state, frozen, batch)
    return jax.device_get((metrics, after.params)), compiled.as_text()


@pytest.fixture(scope="module")
def one(pair, source):
    return stepped(pair, source, devices=1)


def test_one_device_and_four_agree(one, pair, source):
    (metrics, params), _ = one
    (many, others), text = stepped(pair, source, devices=4)
    assert {"class", "box", "tar/class", "tar/box", "gkd/global", "gkd/soft", "mimic/feature_8"} <= set(metrics)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, many[name], rtol=1e-5, atol=1e-5, err_msg=name)
    for (path, leaf), other in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))
    assert "all-reduce" in text and "all-gather" not in text


def test_terms_are_positive_and_finite(one):
    (metrics, _), _ = one
    assert all(np.isfinite(value) for value in metrics.values())
    for name in ("class", "box", "tar/class", "tar/feature_8", "gkd/global", "gkd/soft", "gkd/background_8"):
        assert metrics[name] > 0, name
    assert metrics["gkd/sigma"] < 1
    assert metrics["skipped_steps"] == 0


def test_reliabilities_have_to_come_from_somewhere(source):
    with pytest.raises(ConfigError, match=r"distill.tar.sigma_from is 'mimic', .* there are \['gkd'\]"):
        check_trust(make_pair(source, sigma_from="mimic"))
