"""Runs that are asked to stop: they save, say so by exit code 75, and go on bit by bit as if never stopped."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import runs
import tiny

from jaxkd.cli import main
from jaxkd.cluster.signals import STOP_SIGNALS
from jaxkd.config import component
from jaxkd.errors import ConfigError, DataError, JaxkdError, StoppedError
from jaxkd.train import checkpoint, compiling, evaluate, log, loop, training
from jaxkd.train.stop import Stop

STEPS = 12


def recipe(**train):
    return tiny.run(steps=STEPS, train={"checkpoint_every": 4, "keep": 3} | train)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    loop.run(recipe(), folder, quiet=True)
    return folder


def reports(folder):
    lines = [line for line in log.read(folder) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [{key: line[key] for key in line.keys() - {"step_seconds", "data_wait_share"}} for line in lines]


def assert_equal(folder, other):
    mine, theirs = (runs.arrays(workdir, step=STEPS) for workdir in (folder, other))
    for name in mine | theirs:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    assert reports(folder) == reports(other)


def signalled(monkeypatch, number, *, at):
    """This process gets a signal when it reports step `at`."""
    report = log.Log.report

    def asking(self, step, *args, **more):
        report(self, step, *args, **more)
        if step == at:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(log.Log, "report", asking)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_f3_f5_f6_a_signal_saves_and_the_run_goes_on_equal(whole, tmp_path, monkeypatch, name):
    before = signal.getsignal(signal.Signals[name])
    with monkeypatch.context() as patch:
        signalled(patch, signal.Signals[name], at=6)
        with pytest.raises(StoppedError, match=rf"Stopped by {name} after step 6, which is saved; the same command"):
            loop.run(recipe(), tmp_path, quiet=True)
    assert signal.getsignal(signal.Signals[name]) == before
    assert checkpoint.newest(tmp_path / "checkpoints").step == 6
    assert loop.run(recipe(), tmp_path, quiet=True).steps == STEPS - 6
    assert_equal(tmp_path, whole)


def test_stored_statistics_of_batch_norms_go_on_equal(tmp_path, monkeypatch, capsys):
    options = {"checkpoint_every": 4, "keep": 3, "devices": 2}
    trained = tiny.run(
        student=tiny.gfl(norm="batch", head={"norm": "batch", "per_level": True}), steps=STEPS, train=options
    )
    loop.run(trained, tmp_path / "whole")
    assert "Batch norms see the pictures of one device, here of 2, so results depend" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        signalled(patch, signal.SIGTERM, at=6)
        with pytest.raises(StoppedError):
            loop.run(trained, tmp_path / "stopped", quiet=True)
    loop.run(trained, tmp_path / "stopped", quiet=True)
    assert_equal(tmp_path / "stopped", tmp_path / "whole")
    stored = [
        leaf for name, leaf in runs.arrays(tmp_path / "whole", step=STEPS).items() if "bn1" in name and "mean" in name
    ]
    assert any(leaf.any() for leaf in stored)


def test_the_command_exits_with_75(tmp_path, monkeypatch, capsys):
    file = tmp_path / "recipe.py"
    file.write_text(f"from jaxkd import config\ndef get_config():\n    return config.parse({recipe().to_json()!r})\n")
    monkeypatch.chdir(tmp_path)
    signalled(monkeypatch, signal.SIGTERM, at=2)
    assert main.main(["train", "--config=recipe.py", "--workdir=run", "--quiet"]) == 75
    assert "after step 2, which is saved; the same command goes on from there." in capsys.readouterr().err


def test_a_signal_is_heard_while_a_program_compiles(tmp_path, monkeypatch):
    """The second size of pictures is compiled for ever; what was learned on the first is saved."""
    compiled, calls = compiling.compiled, []

    def slow(function, *arguments, stopped):
        calls.append(arguments)
        if len(calls) == 1:
            return compiled(function, *arguments, stopped=stopped)
        os.kill(os.getpid(), signal.SIGTERM)
        return compiled(SimpleNamespace(lower=lambda *args: time.sleep(600)), stopped=stopped)

    source = component("mixed", count=12)
    data = {"train": source, "val": source, "loader": tiny.loader(buckets=(tiny.SIZE, tiny.SIZE[::-1]))}
    monkeypatch.setattr(compiling, "compiled", slow)
    began = time.monotonic()
    with pytest.raises(StoppedError, match=r"Stopped by SIGTERM after step \d+, which is saved") as stopped:
        loop.run(tiny.run(steps=STEPS, data=data), tmp_path, quiet=True)
    assert stopped.value.compiling and time.monotonic() - began < 300
    assert checkpoint.newest(tmp_path / "checkpoints").step > 0


def test_f5_a_second_ctrl_c_ends_at_once():
    script = (
        "import os, signal, time\nfrom jaxkd.train.stop import Stop\n"
        "with Stop() as stop:\n    os.kill(os.getpid(), signal.SIGINT)\n    assert stop.signal == 'SIGINT'\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
    )
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 130 and "Stopped at once" in ended.stderr
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("name", [name for name in STOP_SIGNALS if hasattr(signal, name)])
def test_every_signal_that_asks_to_end_is_heard_and_given_back(name):
    number, before = signal.Signals[name], signal.getsignal(signal.Signals[name])
    with Stop() as stop:
        os.kill(os.getpid(), number)
        assert stop.signal == name
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.signal
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("step", (4, 12))
def test_an_evaluation_that_is_stopped_is_made_up_for(tmp_path, monkeypatch, step):
    config = recipe(evaluate_every=4)
    loop.run(config, tmp_path / "whole", quiet=True)
    evaluate_source, seen = evaluate.evaluate_source, []

    def stopping(*args, **options):
        seen.append(args)
        if 4 * len(seen) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_source(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate_source", stopping)
        with pytest.raises(StoppedError, match=f"after step {step}, which is saved"):
            loop.run(config, tmp_path / "stopped", quiet=True)
    loop.run(config, tmp_path / "stopped", quiet=True)
    assert_equal(tmp_path / "stopped", tmp_path / "whole")
    scores = [[line for line in log.read(tmp_path / name) if "scores" in line] for name in ("whole", "stopped")]
    assert scores[0] == scores[1] and [line["step"] for line in scores[0]] == [4, 8, 12]


def test_f7_a_kill_between_the_best_student_and_its_checkpoint(tmp_path, monkeypatch):
    config = recipe(evaluate_every=4)
    loop.run(config, tmp_path / "whole", quiet=True)
    save, count = training.Training._save, []

    def dying(self, *args):
        count.append(args)
        if len(count) == 2:
            raise KeyboardInterrupt
        save(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_save", dying)
        with pytest.raises(KeyboardInterrupt):
            loop.run(config, tmp_path / "killed", quiet=True)
    assert checkpoint.newest(tmp_path / "killed" / "checkpoints").step == 4
    loop.run(config, tmp_path / "killed", quiet=True)
    assert_equal(tmp_path / "killed", tmp_path / "whole")
    for name in ("weights.safetensors", "detector.json"):
        mine, theirs = ((tmp_path / run / "student" / name).read_bytes() for run in ("killed", "whole"))
        assert mine == theirs


def test_f23_another_number_of_devices_goes_on_with_the_same_batches(whole, tmp_path, monkeypatch):
    for devices, at in ((1, 4), (2, 8), (4, 0)):
        with monkeypatch.context() as patch:
            signalled(patch, signal.SIGTERM, at=at)
            if at:
                with pytest.raises(StoppedError):
                    loop.run(recipe(devices=devices), tmp_path, quiet=True)
            else:
                loop.run(recipe(devices=devices), tmp_path, quiet=True)
    mine, theirs = (runs.arrays(workdir, step=STEPS) for workdir in (tmp_path, whole))
    for name in mine | theirs:
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-6, err_msg=name)
    for mine, theirs in zip(reports(tmp_path), reports(whole), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert mine["positives"] == theirs["positives"]


def test_data_that_changed_since_the_run_began_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signalled(patch, signal.SIGTERM, at=2)
        with pytest.raises(StoppedError):
            loop.run(recipe(), tmp_path, quiet=True)
    monkeypatch.setattr(loop, "digest", lambda source: "other")
    with pytest.raises(DataError, match=r"The training data of this run changed since it began"):
        loop.run(recipe(), tmp_path, quiet=True)


def test_a_number_that_changes_results_is_bound_to_the_workdir(whole):
    with pytest.raises(ConfigError, match=r"config\.train\.batch was 4 and is now 8"):
        loop.run(recipe(batch=8), whole, quiet=True)


def test_f25_too_little_memory_says_what_to_try(tmp_path, monkeypatch):
    make_step = training.make_step

    class Hungry:
        def __init__(self, *args):
            make_step(*args)

        def lower(self, *args):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.")

    monkeypatch.setattr(training, "make_step", Hungry)
    with pytest.raises(
        JaxkdError, match=r"Out of memory at step 1, with 4 pictures of 64 x 96 .*train\.batch=2"
    ) as found:
        loop.run(recipe(), tmp_path, quiet=True)
    assert found.value.exit_code == 70
