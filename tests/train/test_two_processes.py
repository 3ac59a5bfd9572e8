"""One run of two processes with two devices each has the numbers of one process with four, whatever befalls it."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import runs
import tiny
from ports import free_port

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.loading import build, prepare
from jaxkd.train import checkpoint, evaluate, log, loop, mesh

STEPS = 12
PROGRAM = """
import os, signal, sys
from jaxkd.train import log
report, at, number = log.Log.report, int(os.environ["AT"]), int(os.environ["NUMBER"])
def asking(self, step, *args, **more):
    report(self, step, *args, **more)
    if step == at:
        os.kill(os.getpid(), number)
log.Log.report = asking
from jaxkd.cluster import supervisor
supervise = supervisor.supervise
supervisor.supervise = lambda call, command, **more: supervise(call, [sys.executable, __file__, *command[3:]], **more)
from jaxkd.cli import main
sys.exit(main.main(sys.argv[1:]))
"""


def recipe(**train):
    fields = {"devices": 0, "evaluate_every": 6, "evaluate_batch": 4, "checkpoint_every": 3, "keep": 9}
    return tiny.run(
        steps=STEPS,
        data={
            "train": component("data.shapes", count=16, size=tiny.SIZE),
            "val": component("data.shapes", count=7, size=tiny.SIZE, seed=1),
            "loader": tiny.loader(),
        },
        train=fields | train,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the recipe and the program that runs it."""
    place = tmp_path_factory.mktemp("hosts")
    (place / "recipe.py").write_text(
        f"from jaxkd import config\ndef get_config():\n    return config.parse({json.dumps(recipe().to_dict())!r})\n"
    )
    (place / "program.py").write_text(PROGRAM)
    return place


@pytest.fixture(scope="module")
def whole(folder):
    """The workdir of the run of one process with four devices."""
    assert jax.device_count() == 4
    loop.run(recipe(), folder / "whole", quiet=True)
    return folder / "whole"


def started(folder, workdir, *, at=0, number=signal.SIGTERM, only=(0, 1), flags=((), ())):
    """The processes of a run; the one numbered 1 sends itself a signal when it has done so many steps."""
    port, found = free_port(), []
    for process in only:
        environment = os.environ | {
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=4", "count=2"),
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "AT": str(at if process == 1 else 0),
            "NUMBER": str(int(number)),
        }
        command = [sys.executable, "program.py", "train", "--config=recipe.py", f"--workdir={workdir}"]
        command += [f"--coordinator=localhost:{port}", "--processes=2", f"--process={process}", *flags[process]]
        found.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    return found


def ended(processes):
    """Exit codes and what was said."""
    said = [process.communicate(timeout=1200)[0] for process in processes]
    return [process.returncode for process in processes], said


def test_two_processes_are_one_run_through_a_signal_a_kill_and_a_restart(folder, whole):
    codes, said = ended(started(folder, "run", at=4))
    assert codes == [75, 75], said
    stopped = checkpoint.newest(folder / "run" / "checkpoints").step
    assert stopped in (5, 6)  # the vote of one process is known to all a step later
    assert f"Stopped by another process's signal after step {stopped}, which is saved" in said[0]
    assert f"Stopped by SIGTERM after step {stopped}, which is saved" in said[1]

    codes, said = ended(started(folder, "run", at=8, number=signal.SIGKILL))
    assert codes == [77, 77], said
    assert f"Going on from the checkpoint at step {stopped}." in said[0]
    assert "process 1 on" in said[0] and "this process ends too" in said[0]
    assert checkpoint.newest(folder / "run" / "checkpoints").step >= stopped

    codes, said = ended(started(folder, "run"))
    assert codes == [0, 0], said
    mine, theirs = (runs.arrays(workdir, step=STEPS) for workdir in (folder / "run", whole))
    for name in mine | theirs:
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-6, err_msg=name)
    lines = [log.read(workdir) for workdir in (folder / "run", whole)]
    reports = [[line for line in some if "loss" in line] for some in lines]
    assert [line["step"] for line in reports[0]] == list(range(1, STEPS + 1))
    for mine, theirs in zip(*reports, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    scores = [[line["scores"] for line in some if "scores" in line] for some in lines]
    assert scores[0] == scores[1] and len(scores[0]) == 2


def test_the_scores_do_not_depend_on_the_batch(whole):
    student = build.load(whole / "student")
    source = prepare.load_source(component("data.shapes", count=19, size=tiny.SIZE, seed=1))
    loader_config = configs.build(tiny.loader())
    found = [
        evaluate.evaluate_source(
            student.detector, student.params, source, loader_config, mesh.make_mesh(devices), batch=batch
        )
        for devices, batch in ((1, 1), (1, 8), (4, 8))
    ]
    assert [one.pictures for one in found] == [19] * 3
    for one in found[1:]:
        np.testing.assert_equal(one.summary, found[0].summary)  # of no object is nan, which equals itself here


def test_f21_a_host_that_never_starts(folder):
    soon = [["--patience=3"]] * 2
    codes, said = ended(started(folder, "late", only=[0], flags=soon))
    assert codes == [77]
    assert "jaxkd train: Of 2 processes, 1 did not come within 3 s; there are 0 on" in said[0]
    codes, said = ended(started(folder, "late", only=[1], flags=soon))
    assert codes == [77] and "Process 1 on" in said[0] and "could not reach process 0 at localhost" in said[0]


def test_hosts_with_other_recipes_are_told_so(folder):
    steps = [[f"--config.train.steps={STEPS + process}"] for process in range(2)]
    codes, said = ended(started(folder, "unlike", flags=steps))
    assert codes == [64, 64], said
    assert "Not all processes have the same recipe: process 1 differs from process 0." in "".join(said)
