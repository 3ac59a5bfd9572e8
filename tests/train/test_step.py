"""One taught step: what it learns from, what it leaves alone, and that the number of devices changes nothing."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny
from jax import numpy as jnp

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.loading import build
from jaxkd.train import mesh, optimizer
from jaxkd.train.lesson import StepInputs, teacher_features
from jaxkd.train.probe import make_probe
from jaxkd.train.schedules import Scheduled
from jaxkd.train.state import names
from jaxkd.train.step import Pair, count_spread, forward, initial_state, make_step
from jaxkd.types import Term

SCHEDULED = Scheduled(np.float32(0.01), {"tar": np.float32(1)})
ALONE = Scheduled(np.float32(0.01), {})
TAR = {"feature": {"canonical_scale": 28.0}, "adapter": {"init": "lecun"}}


@pytest.fixture(scope="module")
def source():
    return shapes.load(shapes.Config(count=8, size=tiny.SIZE, seed=3))


@pytest.fixture(scope="module")
def batch(source):
    """Four pictures with one to four objects, and in the last one a crowd in place of its objects."""
    loader_config = configs.build(tiny.loader(flip=0.0))
    found = next(loader.train_batches(source, loader_config, seed=0, steps=1, batch=4))
    valid, crowd = found.valid.copy(), found.crowd.copy()
    crowd[3], valid[3] = valid[3], False
    found = dataclasses.replace(found, valid=valid, crowd=crowd)
    assert len(set(found.valid.sum(1).tolist())) > 2
    return found


@pytest.fixture(scope="module")
def pair(source):
    """A student with frozen norms and a frozen first stage, and a wider teacher with norms of its own."""
    student = build.detector(tiny.detector(norm="frozen_batch", frozen_stages=1), source.classes)
    teacher = build.detector(tiny.detector(width=12, channels=24), source.classes)
    tar = configs.build(component("distill.task_adaptive", **TAR, box={"gate": "none"}))
    return Pair(
        student=student,
        teacher=teacher,
        methods={"tar": tar},
        optimizer=optimizer.build(optimizer.Config(weight_decay=0.01)),
        ema_decay=0.5,
    )


@pytest.fixture(scope="module")
def teacher_params(pair):
    return pair.teacher.init(jax.random.key(7))


@pytest.fixture(scope="module")
def begin(pair):
    """The first state as numbers, from which each test makes one to give away."""
    state = initial_state(pair, pair.student.init(jax.random.key(0)), jax.random.key(1))
    data = jax.device_get(state.replace(key=jax.random.key_data(state.key)))
    return lambda devices: mesh.put_replicated(
        jax.tree.map(jnp.array, data).replace(key=jax.random.wrap_key_data(jnp.array(data.key))), devices
    )


class Stepper:
    """The compiled step on some devices, and what it returns as numbers."""

    def __init__(self, pair, begin, teacher_params, batch, *, devices):
        self.mesh = mesh.make_mesh(devices)
        self.teacher_params = mesh.put_replicated(teacher_params, self.mesh)
        self.batch = mesh.put_batch(batch, self.mesh)
        self.begin = lambda: begin(self.mesh)
        self.compiled = (
            make_step(pair, self.mesh).lower(self.begin(), self.teacher_params, SCHEDULED, self.batch).compile()
        )

    def __call__(self, state=None, teacher_params=None):
        return self.compiled(state or self.begin(), teacher_params or self.teacher_params, SCHEDULED, self.batch)


@pytest.fixture(scope="module")
def four(pair, begin, teacher_params, batch):
    return Stepper(pair, begin, teacher_params, batch, devices=4)


@pytest.fixture(scope="module")
def one(pair, begin, teacher_params, batch):
    return Stepper(pair, begin, teacher_params, batch, devices=1)


@pytest.fixture(scope="module")
def after(four):
    """State and metrics after one step on four devices."""
    state, metrics = four()
    return state, jax.device_get(metrics)


def leaves(tree):
    return {names(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def test_one_device_and_four_agree(one, after):
    state, metrics = one()
    many_state, many = after
    assert set(metrics) == set(many)
    assert many["tar/feature_4"] > 0 and many["tar/class"] > 0 and many["tar/box"] > 0
    for name, value in metrics.items():
        np.testing.assert_allclose(value, many[name], rtol=1e-5, atol=1e-5, err_msg=name)
    mine, others = leaves(state.params), leaves(many_state.params)
    for name, leaf in mine.items():
        np.testing.assert_allclose(leaf, others[name], rtol=1e-5, atol=1e-5, err_msg="/".join(name))


def test_gradients_add_up_and_nothing_is_gathered(four):
    text = four.compiled.as_text()
    assert "all-reduce" in text
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert other not in text


def test_terms_add_up_to_the_loss(after):
    metrics = after[1]
    own = ["rpn_object", "rpn_box", "class", "box"]
    terms = [*own, *(f"tar/feature_{stride}" for stride in (4, 8, 16, 32)), "tar/class", "tar/box"]
    assert set(terms) <= set(metrics)
    np.testing.assert_allclose(metrics["loss"], sum(float(metrics[name]) for name in terms), rtol=1e-5)
    assert metrics["tar/decay"] == 1.0
    assert metrics["skipped_steps"] == 0
    assert 0 < metrics["positives"] < 1
    assert metrics["gradient_norm"] > 0


def test_what_is_frozen_stays_and_the_rest_moves(pair, begin, after):
    old = leaves(begin(mesh.make_mesh(4)).params)
    new = leaves(after[0].params)
    still = {name for name in old if np.array_equal(old[name], new[name])}
    empty = ("distill", "tar", "adapter_32", "bias")  # no object is large enough for this level
    assert still - {empty} == {name for name in old if not pair.trainable(name)}
    assert {("detector", "backbone", "bn1", "mean"), ("detector", "backbone", "layer4_0", "bn1", "var")} <= still
    assert ("detector", "backbone", "layer1_0", "conv1", "kernel") in still
    assert any(name[:2] == ("distill", "tar") for name in old.keys() - still)
    assert not any(name[-1] in ("mean", "var") for name in leaves(after[0].opt_state))


def test_the_average_follows(begin, after):
    old, new = leaves(begin(mesh.make_mesh(4)).params["detector"]), leaves(after[0].params["detector"])
    rate = min(0.5, 1 / 10)
    for name, leaf in leaves(after[0].ema).items():
        np.testing.assert_allclose(leaf, rate * old[name] + (1 - rate) * new[name], atol=1e-6)


def test_the_teacher_is_not_changed(four, teacher_params, after):
    del after
    for name, leaf in leaves(four.teacher_params).items():
        np.testing.assert_array_equal(leaf, leaves(teacher_params)[name])


def test_steps_that_are_not_finite_are_skipped_and_counted(four):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, four.teacher_params)
    before = leaves(four.begin().params)
    state, metrics = four(teacher_params=broken)
    assert (metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (1, 1)
    assert not np.isfinite(metrics["loss"])
    for name, leaf in leaves(state.params).items():
        np.testing.assert_array_equal(leaf, before[name])
    assert state.step == 1
    state, metrics = four(state)
    assert (metrics["skipped_steps"], metrics["skipped_in_a_row"]) == (1, 0)
    assert np.isfinite(metrics["loss"])
    assert not np.array_equal(
        leaves(state.params)["detector", "head", "fc6", "kernel"], before["detector", "head", "fc6", "kernel"]
    )
    average = leaves(state.ema)
    state, _ = four(state, teacher_params=broken)
    for name, leaf in leaves(state.ema).items():
        np.testing.assert_array_equal(leaf, average[name])


def inputs(pair, state, teacher_params, batch, decay):
    """What `forward` is given in a step."""
    target = teacher_features(pair, teacher_params, batch)
    return StepInputs(batch, teacher_params, teacher_features=target, memory=state.memory, key=state.key, decay=decay)


@pytest.fixture(scope="module")
def decayed(pair, begin, teacher_params, batch):
    """All terms, and the gradient of their sum to the teacher, for a factor of choice."""
    one = mesh.make_mesh(1)

    @jax.jit
    def compute(state, teacher_params, batch, factor):
        def loss(teacher_params):
            features = pair.student.features(state.params["detector"], batch)
            outcome = forward(pair, state.params, features, inputs(pair, state, teacher_params, batch, {"tar": factor}))
            return sum(term.mean() for term in outcome.terms.values()), outcome.terms

        return jax.grad(loss, has_aux=True)(teacher_params)

    placed = (mesh.put_replicated(teacher_params, one), mesh.put_batch(batch, one))
    return lambda factor: jax.device_get(compute(begin(one), *placed, jnp.float32(factor)))


def test_decay_scales_what_is_taught_and_nothing_else(decayed):
    (_, whole), (_, quarter), (_, none) = decayed(1.0), decayed(0.25), decayed(0.0)
    taught = {name for name in whole if name.startswith("tar/")}
    assert len(taught) == 6 and len(whole) == 10
    for name, term in whole.items():
        factor, nothing = (0.25, 0.0) if name in taught else (1.0, 1.0)
        np.testing.assert_allclose(quarter[name].total, factor * term.total, rtol=1e-5)
        np.testing.assert_allclose(none[name].total, nothing * term.total, rtol=1e-5)
        assert term.count == quarter[name].count == none[name].count


def test_no_gradient_reaches_the_teacher(decayed):
    grads, _ = decayed(1.0)
    for name, leaf in leaves(grads).items():
        assert not leaf.any(), name


def test_the_state_is_given_away_and_nothing_else(four):
    state = four.begin()
    four(state)
    given = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state, state.ema)) if leaf.ndim]
    assert given and all(leaf.is_deleted() for leaf in given)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((four.teacher_params, four.batch)))


def kept_bytes(pair, batch):
    """Bytes that the forward pass of a step hands to its backward pass."""

    def pulled_back(state, teacher_params, batch):
        given = inputs(pair, state, teacher_params, batch, {"tar": jnp.float32(1)})

        def objective(params):
            features = pair.student.features(params["detector"], batch)
            terms = forward(pair, params, features, given).terms
            return sum(term.mean() for term in terms.values())

        return jax.vjp(objective, state.params)[1]

    state = jax.eval_shape(lambda: initial_state(pair, pair.student.init(jax.random.key(0)), jax.random.key(1)))
    teacher_params = jax.eval_shape(pair.teacher.init, jax.random.key(7))
    kept = jax.tree.leaves(jax.eval_shape(pulled_back, state, teacher_params, batch))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in kept)


def test_a_larger_teacher_is_not_remembered_for_the_gradient(pair, source, batch):
    larger = build.detector(tiny.detector(width=24, channels=24, head={"hidden": 96}), source.classes)
    kept = kept_bytes(pair, batch)
    assert kept > 2**20
    assert kept == kept_bytes(dataclasses.replace(pair, teacher=larger), batch)


@pytest.fixture(scope="module")
def sampled(pair, source):
    """A student alone whose samples are always full, so that all pictures count alike, and four pictures for it."""
    student = build.detector(tiny.detector(rpn={"samples": 16}, rois={"samples": 8}), source.classes)
    loader_config = configs.build(tiny.loader(flip=0.0))
    pictures = next(loader.train_batches(source, loader_config, seed=0, steps=1, batch=4))
    return dataclasses.replace(pair, student=student, teacher=None, methods={}, ema_decay=0.0), pictures


@pytest.fixture(scope="module")
def accumulated(sampled):
    """By (devices, parts): what one step gives, and the compiled step."""
    alone, pictures = sampled
    found = {}
    for devices, parts in ((1, 1), (1, 2), (2, 2)):
        over = mesh.make_mesh(devices)
        state = initial_state(alone, alone.student.init(jax.random.key(0)), jax.random.key(1))
        placed = (mesh.put_replicated(state, over), {}, ALONE, mesh.put_batch(pictures, over))
        step = make_step(dataclasses.replace(alone, accumulate=parts), over).lower(*placed).compile()
        state, metrics = step(*placed)
        found[devices, parts] = leaves(state.params), jax.device_get(metrics), step
    return found


@pytest.mark.parametrize("case", [(1, 2), (2, 2)])
def test_parts_that_count_alike_give_the_step_of_the_whole_batch(accumulated, case):
    params, metrics, _ = accumulated[1, 1]
    others, seen, _ = accumulated[case]
    assert seen.pop("count_spread") == 0
    assert set(metrics) == set(seen)
    for name, value in metrics.items():
        np.testing.assert_allclose(seen[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for name, leaf in params.items():
        np.testing.assert_allclose(others[name], leaf, rtol=1e-5, atol=1e-6, err_msg="/".join(name))


def test_a_dense_students_step_in_parts_is_that_of_the_whole_batch(source, pair, teacher_params, batch):
    """Pictures that differ in their objects, one a part: the counts are known before, those of the masks too."""
    student = build.detector(tiny.retinanet(norm="frozen_batch"), source.classes)
    tar = configs.build(component("distill.task_adaptive", **TAR, classification={"weight": 0.0}, box={"weight": 0.0}))
    dense = dataclasses.replace(pair, student=student, methods={"tar": tar}, ema_decay=0.0)
    over, found = mesh.make_mesh(1), {}
    for parts in (1, 4):
        state = initial_state(dense, student.init(jax.random.key(0)), jax.random.key(1))
        step = make_step(dataclasses.replace(dense, accumulate=parts), over)
        placed = (mesh.put_replicated(teacher_params, over), SCHEDULED, mesh.put_batch(batch, over))
        state, metrics = step(mesh.put_replicated(state, over), *placed)
        found[parts] = leaves(state.params), jax.device_get(metrics)
    (params, metrics), (others, seen) = found[1], found[4]
    assert set(metrics) == set(seen)
    for name, value in metrics.items():
        np.testing.assert_allclose(seen[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    begun = leaves(initial_state(dense, student.init(jax.random.key(0)), jax.random.key(1)).params)
    for name, leaf in params.items():
        moved = np.abs(leaf - begun[name]).max()
        np.testing.assert_allclose(others[name], leaf, rtol=0, atol=1e-4 * moved + 1e-8, err_msg="/".join(name))


def test_how_far_the_parts_counts_differ():
    """Counts of 1, 3 and 8 in three parts: a mean of 4, a mean square of 74 / 3; and of parts that count nothing."""
    terms = {"box": Term(jnp.zeros(()), jnp.float32(12)), "none": Term(jnp.zeros(()), jnp.zeros(()))}
    squares = {"box": jnp.float32(74), "none": jnp.zeros(())}
    np.testing.assert_allclose(count_spread(terms, squares, parts=3), (74 / 3 - 16) ** 0.5 / 4, rtol=1e-6)
    assert count_spread({"none": terms["none"]}, {"none": squares["none"]}, parts=3) == 0


def test_parts_need_less_memory_and_add_gradients_up_once(accumulated):
    whole, parts = (accumulated[1, count][2].memory_analysis().temp_size_in_bytes for count in (1, 2))
    assert parts < 0.9 * whole
    text = accumulated[2, 2][2].as_text()
    bodies = [body for body in text.split("\n\n") if "all-reduce(" in body]
    assert len(bodies) == 2  # the part's, which adds up counts, and the step's
    part = next(body for body in bodies if not body.startswith("ENTRY"))
    assert all("f32[]" in line or "f32[4]" in line for line in part.splitlines() if "all-reduce(" in line)


def test_gradient_ratios(pair, begin, four):
    probe = make_probe(pair, four.mesh)
    ratios = probe(begin(four.mesh), four.teacher_params, SCHEDULED, four.batch)
    assert set(ratios) == {f"gradient_ratio/tar/{term}" for term in ("feature", "class", "box")}
    for name, ratio in ratios.items():
        assert np.isfinite(ratio) and ratio > 0, name
