"""Whole runs on drawn pictures: stopped, killed and started again, refused, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import runs
import safetensors.numpy
import tiny
from ml_collections import ConfigDict

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.errors import ConfigError, DataError, DivergedError, StorageError, WeightsError
from jaxkd.evaluation.coco import Scores
from jaxkd.evaluation.run import Evaluation
from jaxkd.loading import build, prepare
from jaxkd.train import evaluate, log, loop, ownership, training
from jaxkd.weights.tree import flatten

CLASSES = ("circle", "square", "triangle")
STEPS = 12
DYING = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from jaxkd import config
from jaxkd.train import log, loop

report = log.Log.report

def dying(self, step, *args, **more):
    report(self, step, *args, **more)
    if step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

log.Log.report = dying
loop.run(config.parse(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), quiet=True)
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of an untrained teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    config = tiny.detector(width=12, channels=24)
    params = build.detector(config, CLASSES).init(jax.random.key(7))
    build.save(folder, params, config=config, classes=CLASSES, scores={})
    return folder


@pytest.fixture(scope="module")
def taught(teacher):
    return tiny.run(
        steps=STEPS,
        teacher=str(teacher),
        distill={
            "tar": component("distill.task_adaptive", feature={"canonical_scale": 28.0}, adapter={"init": "lecun"}),
            "gkd": component("distill.global_knowledge", prototypes={"count": 3}, canonical_scale=14.0),
        },
    )


@pytest.fixture(scope="module")
def whole(taught, tmp_path_factory):
    """The workdir of the taught run, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    finished = loop.run(taught, folder, quiet=True)
    assert (finished.steps, finished.compilations) == (STEPS, 1)
    assert [line["step"] for line in log.read(folder) if "refreshed" in line] == [0, 4, 8]
    return folder


def assert_same_run(workdir, other):
    mine, theirs = (runs.arrays(folder, step=STEPS) for folder in (workdir, other))
    assert set(mine) == set(theirs) and any("adapter" in name for name in mine)
    for name, leaf in mine.items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)
    mine, theirs = ((folder / "student" / "weights.safetensors").read_bytes() for folder in (workdir, other))
    assert mine == theirs
    reports = [[line for line in log.read(folder) if "loss" in line] for folder in (workdir, other)]
    assert [line["step"] for line in reports[0]] == list(range(1, STEPS + 1))
    timing = {"step_seconds", "data_wait_share"}
    for a, b in zip(*reports, strict=True):
        assert {key: a[key] for key in a.keys() - timing} == {key: b[key] for key in b.keys() - timing}


def stop_and_go_on(recipe, folder, monkeypatch):
    """A run that is interrupted after step 6 and started again."""
    report = log.Log.report

    def stopping(self, step, *args, **more):
        report(self, step, *args, **more)
        if step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(log.Log, "report", stopping)
        with pytest.raises(KeyboardInterrupt):
            loop.run(recipe, folder, quiet=True)
    assert not (folder / "student").exists()
    finished = loop.run(recipe, folder, quiet=True)
    assert finished.steps == STEPS - 4


def test_a_stopped_run_ends_like_a_whole_one(taught, whole, tmp_path, monkeypatch):
    stop_and_go_on(taught, tmp_path, monkeypatch)
    assert_same_run(tmp_path, whole)


def test_a_stopped_retinanet_ends_like_a_whole_one(teacher, tmp_path, monkeypatch):
    recipe = tiny.run(
        steps=STEPS,
        student=tiny.retinanet(),
        teacher=str(teacher),
        distill={
            "gkd": component("distill.global_knowledge", prototypes={"count": 3}, soft={"weight": 0.0}, levels="common")
        },
    )
    loop.run(recipe, tmp_path / "whole", quiet=True)
    stop_and_go_on(recipe, tmp_path / "stopped", monkeypatch)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_stopped_run_with_a_balance_ends_like_a_whole_one(taught, whole, tmp_path, monkeypatch, capsys):
    recipe, target = configs.parse(configs.dump(taught)), 0.03
    recipe.train.balance.update(target=target, batches=1, again=(0.5,))
    recipe.train.probe_every = 6
    loop.run(recipe, tmp_path / "whole")
    said = capsys.readouterr().out
    assert said.count("the median of 1 batch (train.balance)") == 2 and "weight times" in said
    first, without = (
        next(line for line in log.read(folder) if "loss" in line) for folder in (tmp_path / "whole", whole)
    )
    for term in ("tar/class", "tar/box", "gkd/global"):
        factor, ratio = first[f"balance/{term}"], first[f"gradient_ratio/{term}"]
        assert (factor == 1.0 and ratio <= target) or ratio == pytest.approx(target)
        assert first[term] == pytest.approx(factor * without[term], rel=1e-4)
    assert 0 < first["balance/tar/class"] < 1
    stop_and_go_on(recipe, tmp_path / "stopped", monkeypatch)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_killed_run_ends_like_a_whole_one(taught, whole, tmp_path):
    (tmp_path / "recipe.json").write_text(configs.dump(taught))
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(*, die_at):
        command = [sys.executable, "-c", DYING, tmp_path / "recipe.json", tmp_path / "run", str(die_at)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)

    killed = start(die_at=9)  # when the checkpoint of step 8 may be half written
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = start(die_at=0)
    assert again.returncode == 0, again.stderr
    assert_same_run(tmp_path / "run", whole)


def test_a_finished_run_only_evaluates(taught, whole):
    before = log.read(whole)
    finished = loop.run(taught, whole, quiet=True)
    assert (finished.steps, finished.compilations) == (0, 0)
    assert [line for line in log.read(whole) if "loss" in line] == [line for line in before if "loss" in line]


def test_the_student_loads_back_equal(taught, whole):
    loaded = build.load(whole / "student")
    assert loaded.detector == build.detector(taught.student, CLASSES)
    assert set(loaded.scores) >= {"AP", "AP50"}
    state = runs.arrays(whole, step=STEPS)
    leaves = flatten(loaded.params)
    for name, leaf in leaves.items():
        keys = "".join(f"['{part}']" for part in name.split("/"))
        np.testing.assert_array_equal(leaf, state[f"['params']['detector']{keys}"])
    assert len(leaves) == sum(name.startswith("['params']['detector']") for name in state)


def test_one_compilation_for_each_bucket(tmp_path):
    source = component("mixed", count=12)
    config = tiny.run(
        steps=6,
        train={"checkpoint_every": 0},
        data={
            "train": source,
            "val": source,
            "loader": tiny.loader(buckets=(tiny.SIZE, tiny.SIZE[::-1])),
        },
    )
    finished = loop.run(config, tmp_path, quiet=True)
    assert finished.compilations == 2
    assert finished.evaluation.pictures == 12


def evaluation(ap):
    return Evaluation(results=[], scores=Scores(summary={"AP": ap, "AP50": ap, "AP75": ap}, per_class={}), pictures=1)


@pytest.fixture
def alone():
    """The recipe of an untaught run whose scores a test makes up."""
    return tiny.run(steps=8, train={"evaluate_every": 2, "keep": 1, "checkpoint_every": 0})


def test_the_best_student_and_its_checkpoint_are_kept(alone, tmp_path, monkeypatch):
    seen, scores = [], iter([0.1, 0.5, 0.2, float("nan")])

    def evaluate_source(detector, params, *rest, **options):
        seen.append(jax.device_get(params))
        return evaluation(next(scores))

    monkeypatch.setattr(evaluate, "evaluate_source", evaluate_source)
    finished = loop.run(alone, tmp_path, quiet=True)
    assert finished.best_ap == 0.5
    kept = flatten(build.load(tmp_path / "student").params)
    for name, leaf in flatten(seen[1]).items():
        np.testing.assert_array_equal(kept[name], leaf)
    assert not np.array_equal(kept["head/fc6/kernel"], flatten(seen[2])["head/fc6/kernel"])
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert steps == [4, 8]
    assert [line["scores"]["AP"] for line in log.read(tmp_path) if "scores" in line] == [0.1, 0.5, 0.2, None]


def test_steps_outlive_an_evaluation_that_fails(tmp_path, monkeypatch):
    alone = tiny.run(steps=2, train={"checkpoint_every": 0})
    with monkeypatch.context() as patch:
        patch.setattr(
            evaluate, "evaluate_source", lambda *args, **options: _raise(DataError("None of the pictures can be read."))
        )
        with pytest.raises(DataError):
            loop.run(alone, tmp_path, quiet=True)
    assert not (tmp_path / "student").exists()
    monkeypatch.setattr(evaluate, "evaluate_source", lambda *args, **options: evaluation(0.3))
    finished = loop.run(alone, tmp_path, quiet=True)
    assert (finished.steps, finished.best_ap) == (0, 0.3)
    assert (tmp_path / "student").exists()


def _raise(error):
    raise error


def test_a_run_that_diverges_says_so(alone, tmp_path, monkeypatch):
    make_step = training.make_step

    class Poisoned:
        def __init__(self, step):
            self.step = step

        def lower(self, *args):
            program = self.step.lower(*args).compile()

            def poisoned(*args):
                state, metrics = program(*args)
                return state, metrics | {"skipped_in_a_row": np.float32(10)}

            return SimpleNamespace(compile=lambda: poisoned)

    monkeypatch.setattr(training, "make_step", lambda *args: Poisoned(make_step(*args)))
    with pytest.raises(DivergedError, match="10 steps in a row"):
        loop.run(alone, tmp_path, quiet=True)


def test_the_workdir_of_another_recipe_is_refused(whole, taught):
    other = ConfigDict(taught.to_dict())
    other.optimizer.learning_rate = 0.5
    with pytest.raises(ConfigError, match=r"config\.optimizer\.learning_rate was 0\.01 and is now 0\.5"):
        loop.run(other, whole, quiet=True)
    ownership.claim(whole, taught)


def test_a_workdir_that_is_a_file_is_refused(tmp_path, taught):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"is a file|cannot be used"):
        ownership.claim(tmp_path / "file", taught)


def test_methods_without_a_teacher_are_refused(taught):
    other = ConfigDict(taught.to_dict())
    other.teacher = ""
    with pytest.raises(ConfigError, match=r"and no teacher; name its folder or file with --config\.teacher=PATH"):
        prepare.load_teacher(other)


def test_class_lists_are_compared_by_name():
    student = ("circle", "square", "star")
    assert prepare.class_columns(student, student) == ((), "")
    columns, said = prepare.class_columns(("square", "disc", "circle"), student)
    assert columns == (2, 0, -1) and "knows 2 of the student's 3 classes by name; it says nothing about star" in said
    columns, said = prepare.class_columns(student[::-1], student)
    assert columns == (2, 1, 0) and "in another order" in said
    columns, said = prepare.class_columns(("disc",), student)
    assert columns == () and "only features can be taught" in said


def test_a_teacher_of_other_classes_teaches_what_both_know(taught, tmp_path, capsys):
    config = tiny.detector(width=12, channels=24)
    names = ("triangle", "star", "square", "disc")
    params = build.detector(config, names).init(jax.random.key(7))
    build.save(tmp_path / "teacher", params, config=config, classes=names, scores={"AP": 0.9})
    other = ConfigDict(taught.to_dict())
    other.teacher, other.train.steps, other.train.teacher_check = str(tmp_path / "teacher"), 1, 2
    loop.run(other, tmp_path / "run")
    out = capsys.readouterr().out
    assert "The teacher knows 2 of the student's 3 classes by name; it says nothing about circle." in out
    assert "The teacher scores AP" in out
    (line,) = [line for line in log.read(tmp_path / "run") if "loss" in line]
    assert all(np.isfinite(value) for value in line.values()) and line["gkd/soft"] >= 0


def test_a_teacher_that_knows_no_class_is_not_scored(tmp_path, monkeypatch, capsys):
    config, names = tiny.detector(), ("star", "moon", "sun", "disc")
    params = build.detector(config, names).init(jax.random.key(7))
    build.save(tmp_path / "teacher", params, config=config, classes=names, scores={"AP": 0.9})
    recipe = tiny.run(
        teacher=str(tmp_path / "teacher"), distill={"mimic": component("distill.mimic")}, train={"teacher_check": 2}
    )
    monkeypatch.setattr(training.Training, "_score", lambda *_, **__: pytest.fail("it was scored"))
    monkeypatch.setattr(training.Training, "run", lambda *_: _raise(DataError("It is about to train.")))
    with pytest.raises(DataError, match="about to train"):
        loop.run(recipe, tmp_path / "run")
    assert "knows none of the student's classes by name; only features can be taught." in capsys.readouterr().out


def test_a_teacher_that_lacks_a_leaf_is_refused(taught, teacher, tmp_path):
    leaves = safetensors.numpy.load_file(teacher / "weights.safetensors")
    del leaves["head/fc6/bias"]
    safetensors.numpy.save_file(leaves, tmp_path / "weights.safetensors")
    (tmp_path / "detector.json").write_text((teacher / "detector.json").read_text())
    other = ConfigDict(taught.to_dict())
    other.teacher = str(tmp_path)
    with pytest.raises(WeightsError, match="head/fc6/bias is missing"):
        prepare.load_teacher(other)
    other.teacher = str(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"holds no detector\.json"):
        prepare.load_teacher(other)


def test_a_teacher_that_scores_less_than_it_did_is_refused(taught, teacher, tmp_path, monkeypatch):
    about = json.loads((teacher / "detector.json").read_text()) | {"scores": {"AP": 0.4}}
    (tmp_path / "detector.json").write_text(json.dumps(about))
    (tmp_path / "weights.safetensors").write_bytes((teacher / "weights.safetensors").read_bytes())
    other = ConfigDict(taught.to_dict())
    other.teacher, other.train.teacher_check = str(tmp_path), 4
    monkeypatch.setattr(evaluate, "evaluate_source", lambda *args, **options: evaluation(0.1))
    with pytest.raises(WeightsError, match=r"scores AP 10\.0 on this data and 40\.0"):
        loop.run(other, tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 3, "devices": 2}, "does not divide over 2 devices"),
        ({"batch": 4, "devices": 2, "accumulate": 4}, r"over 2 devices in 4 parts \(train.accumulate\)"),
        ({"accumulate": 0}, "train.loop.accumulate must be at least 1, not 0"),
        ({"devices": 64}, "asks for 64 devices"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path, options, words):
    steps = options.pop("steps", 4)
    with pytest.raises(ConfigError, match=words):
        loop.run(tiny.run(steps=steps, train=options), tmp_path, quiet=True)
