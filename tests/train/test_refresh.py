"""Prototypes from a training set, and the losses of the step after them: the same on one device, on four and in two
processes; and when they are rebuilt."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
from jax import numpy as jnp

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.distill import global_knowledge
from jaxkd.distill.prototypes import Truth, Vectors, choose, find
from jaxkd.loading import build
from jaxkd.train import mesh, optimizer
from jaxkd.train.refresh import Refresh
from jaxkd.train.schedules import Scheduled
from jaxkd.train.step import Pair, initial_state, make_step

COUNT = 3


SCHEDULED = Scheduled(np.float32(0.01), {"gkd": np.float32(1)})


def make_pair(**fields):
    """A student and a wider teacher that are taught global knowledge."""
    source = shapes.load(shapes.Config(count=11, size=tiny.SIZE, seed=3))
    search = global_knowledge.Search(count=COUNT, min_side=12.0)
    method = global_knowledge.Config(prototypes=search, canonical_scale=14.0, **fields)
    pair = Pair(
        student=build.detector(tiny.detector(), source.classes),
        teacher=build.detector(tiny.detector(width=12, channels=24), source.classes),
        methods={"gkd": method},
        optimizer=optimizer.build(optimizer.Config()),
    )
    return source, pair


def refreshed(*, devices):
    """The state after a refresh, the refresh, and the next step's losses, on so many devices in all."""
    source, pair = make_pair()
    meshed = mesh.make_mesh(devices)
    state = initial_state(pair, pair.student.init(jax.random.key(0)), jax.random.key(1))
    teacher_params = mesh.put_replicated(pair.teacher.init(jax.random.key(7)), meshed)
    loader_config = configs.build(tiny.loader())
    rebuild = Refresh(pair, source, loader_config, meshed, batch=4, steps_per_epoch=2)
    state = rebuild(mesh.put_replicated(state, meshed), teacher_params, ["gkd"])
    batch = next(loader.train_batches(source, loader_config, seed=0, steps=1, batch=4))
    own = slice(
        jax.process_index() * (4 // jax.process_count()), (jax.process_index() + 1) * (4 // jax.process_count())
    )
    batch = mesh.put_batch(jax.tree.map(lambda leaf: leaf[own], batch), meshed)
    _, metrics = make_step(pair, meshed)(jax.tree.map(jnp.copy, state), teacher_params, SCHEDULED, batch)
    return state, rebuild, {name: float(value) for name, value in metrics.items()}


def numbers(outcome):
    """The memory, and the losses of the next step, as lists."""
    state, _, metrics = outcome
    memory = dataclasses.asdict(state.memory["gkd"])
    return jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), memory | {"metrics": metrics})


@pytest.fixture(scope="module")
def one():
    return refreshed(devices=1)


def assert_same(found, wanted):
    assert list(found["objects"]) == list(wanted["objects"])
    assert found["known"] == wanted["known"]
    for space in ("student", "teacher"):
        for mine, other in zip(found[space], wanted[space], strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-5)
    assert found["metrics"].keys() == wanted["metrics"].keys() >= {"class", "gkd/global", "gkd/soft", "loss"}
    for name, value in wanted["metrics"].items():
        np.testing.assert_allclose(found["metrics"][name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_prototypes_are_objects_of_their_class(one):
    state, rebuild, _ = one
    memory = state.memory["gkd"]
    assert memory.known.all()
    found, student = rebuild.describe("gkd", state.params["detector"], "student")
    for level, (objects, rows) in enumerate(zip(memory.objects, memory.student, strict=True)):
        np.testing.assert_array_equal(found.labels[objects], np.repeat(np.arange(len(memory.known)), COUNT))
        np.testing.assert_allclose(rows, student[level][objects], atol=1e-5)
    source, _ = make_pair()
    for picture, label, box in zip(*found, strict=True):
        record = source.records[picture]
        assert label in record.labels[np.isclose(record.boxes, box, atol=1e-3).all(1)]


def test_one_device_and_four_agree(one):
    assert_same(numbers(refreshed(devices=4)), numbers(one))


PROCESS = """
import json, os, sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import test_refresh
print(json.dumps(test_refresh.numbers(test_refresh.refreshed(devices=4))))
"""


def two_processes():
    """What each of two processes leaves: exit code, output and errors."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    tests = os.path.dirname(os.path.dirname(__file__))
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=4", "count=2"),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join([tests, os.path.dirname(__file__)]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=1200) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def test_two_processes_agree(one):
    """Where one waits too long for the other to compile, its collectives give up; then it is compiled the next time."""
    for _ in range(3):
        ended = two_processes()
        if not any(code for code, _, _ in ended):
            break
    for code, out, error in ended:
        assert code == 0, error
        assert_same(json.loads(out.splitlines()[-1]), numbers(one))


def test_when_it_is_due():
    source, pair = make_pair(refresh_every=2, start_epoch=1)
    rebuild = Refresh(pair, source, configs.build(tiny.loader()), mesh.make_mesh(1), batch=4, steps_per_epoch=3)
    assert [step for step in range(20) if rebuild.due(step)] == [3, 9, 15]
    plain = dataclasses.replace(pair, methods={"mimic": configs.build(component("distill.mimic"))})
    other = Refresh(plain, source, configs.build(tiny.loader()), mesh.make_mesh(1), batch=4, steps_per_epoch=3)
    assert not any(other.due(step) for step in range(20))


def truth():
    draw = np.random.default_rng(0)
    return Truth(
        pictures=np.repeat(np.arange(40), 3),
        labels=draw.integers(0, 3, 120),
        sides=np.where(np.arange(120)[:, None] % 2 == 0, [50.0, 31.0], [50.0, 30.0]),
    )


def test_objects_are_large_and_on_drawn_pictures():
    everything = truth()
    choice = choose(everything, sources=40, classes=3, min_side=30.0, pictures=5, seed=1)
    held = choice.holds(everything)
    assert (everything.sides[held].min(1) > 30).all()
    for label in range(3):
        assert len(set(everything.pictures[held & (everything.labels == label)])) == 5
    again = choose(everything, sources=40, classes=3, min_side=30.0, pictures=5, seed=1)
    np.testing.assert_array_equal(choice.drawn, again.drawn)
    assert set(choice.pictures) == set(np.flatnonzero(choice.drawn.any(1)))
    other = choose(everything, sources=40, classes=3, min_side=30.0, pictures=5, seed=2)
    assert (choice.drawn != other.drawn).any()


def test_a_class_of_small_objects_has_them_all():
    small = dataclasses.replace(truth(), sides=np.full((120, 2), 8.0))
    choice = choose(small, sources=40, classes=4, min_side=30.0, pictures=800, seed=1)
    assert choice.holds(small).all()
    assert not choice.drawn[:, 3].any()


@pytest.mark.parametrize("kind", ["matching_pursuit", "density", "random", "class_mean"])
def test_every_kind_of_prototype(kind):
    draw = np.random.default_rng(0)
    labels = np.array([0] * 9 + [2, 2] + [3])  # class 1 has nobody, class 3 a single one
    student, teacher = ((draw.normal(size=(12, width)).astype(np.float32),) for width in (4, 6))
    found = find(Vectors(labels, student, teacher), classes=4, count=5, alpha=10.0, kind=kind, seed=0)
    assert found.known.tolist() == [True, False, True, True]
    assert found.student[0].shape == (20, 4) and found.teacher[0].shape == (20, 6)
    objects = np.asarray(found.objects[0]).reshape(4, 5)
    assert (objects[1] == -1).all()
    assert not np.asarray(found.student[0])[5:10].any()
    if kind == "class_mean":
        np.testing.assert_allclose(found.teacher[0][10:15], np.tile(teacher[0][9:11].mean(0), (5, 1)), rtol=1e-6)
    else:
        assert (labels[objects[0]] == 0).all() and (labels[objects[2]] == 2).all() and (objects[3] == 11).all()
        np.testing.assert_array_equal(found.student[0][15:], np.tile(student[0][11], (5, 1)))


def test_no_object_at_all():
    nobody = (np.zeros((0, 4), np.float32),)
    found = find(
        Vectors(np.zeros(0, int), nobody, nobody), classes=2, count=3, alpha=10.0, kind="matching_pursuit", seed=0
    )
    assert not found.known.any()
    assert found.student[0].shape == (6, 4)
