"""What a step needs, on the command line: before its devices, its teacher's weights or its data are there."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import jax
import projects
import pytest

from jaxkd.cli import preflight as command
from jaxkd.config import load_recipe
from jaxkd.errors import ConfigError
from jaxkd.preflight import chips, collectives, plan, requirements, topology
from jaxkd.train import mesh


def check(project, *flags, arg="alone"):
    with contextlib.chdir(project.folder):
        return projects.call("preflight", f"--config={project.recipe}:{arg}", *flags)


@pytest.fixture(autouse=True)
def cache_again():
    """Other tests keep their compile cache."""
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A recipe without its pictures, looked at once, with the record that was written."""
    folder = tmp_path_factory.mktemp("preflight")
    project = projects.make_project(folder / "project", teacher=str(folder / "teacher"))
    (project.folder / "train.json").unlink()
    outcome = check(project, "--classes=2", "--nosearch", f"--out={folder / 'record.json'}")
    assert outcome.code == 0, outcome
    return project, outcome, json.loads((folder / "record.json").read_text())


def test_a_recipe_is_described_without_its_data(asked):
    _, outcome, record = asked
    assert outcome.err == ""
    assert "here: 1 x CPU" in outcome.out
    assert "2 classes, as --classes says, since the data is not here" in outcome.out
    assert "Nothing is taught." in outcome.out
    assert "64x96, 4 pictures a chip, 4 in all:" in outcome.out
    assert "fits" in outcome.out
    (probe,) = record["probes"]
    assert probe["needed"] > record["trainable"] > 0
    assert (record["topology"], record["devices"], record["largest"]) == ("here", 1, None)


def test_what_does_not_fit_is_refused_with_the_batch_that_does(asked, refused, monkeypatch):
    project, _, record = asked
    memory = record["probes"][0]["needed"] - 1
    real = chips.chip_of
    monkeypatch.setattr(chips, "chip_of", lambda *args, **more: dataclasses.replace(real(*args, **more), memory=memory))
    outcome = check(project, "--classes=2")
    refused(outcome, 71, "A step with 4 pictures a chip needs", "3 a chip fit: --batch=3", command="preflight")
    assert "does not fit" in outcome.out
    assert "Largest batch that fits: 3 a chip, 3 in all." in outcome.out


@pytest.fixture
def planned(asked, monkeypatch):
    """A slice of two chips, each with twice what the recipe's batch needs; a plan lacks a tenth of that for code."""
    needed = asked[2]["probes"][0]["needed"]
    chip = chips.Chip("TPU v0", 2 * needed, None, None, "made up")
    steps = []

    def made(step, *, bucket, pictures):
        steps.append(step)
        total = int(needed * (pictures / 4 - 0.1))
        kinds = {"all-reduce": collectives.Collectives(3, 5_000_000)}
        return requirements.Plan(bucket, pictures, total, chip.memory, total <= chip.memory, 30.0, kinds, 7)

    monkeypatch.setattr(topology, "mesh_of", lambda name, *, devices: mesh.make_mesh(2))
    monkeypatch.setattr(chips, "chip_of", lambda device, *, sharing: chip)
    monkeypatch.setattr(plan, "plan", made)
    return steps


def test_the_plan_alone(project, planned, refused, tmp_path):
    out = tmp_path / "record.json"
    outcome = check(project, "--topology=v0:1x2", "--plan", f"--out={out}", "--batch=8")
    assert outcome.code == 0, outcome
    assert "64x96, 4 pictures a chip, 8 in all:" in outcome.out
    assert "with the code to come beside: fits" in outcome.out
    assert "3 all-reduce of 5.000 MB" in outcome.out and "7 instructions are repeated" in outcome.out
    assert "TFLOP" not in outcome.out and "lower bound" not in outcome.out and "Largest" not in outcome.out
    record = json.loads(out.read_text())
    assert (record["probes"], record["largest"]) == ([], None)
    assert [one["pictures"] for one in record["plans"]] == [4]
    (step,) = planned
    assert (step.topology, step.classes, step.teachers) == ("v0:1x2", 80, {})
    assert step.recipe.train.batch == 4
    assert jax.config.jax_platforms == "cpu"  # so accelerators that are here are left alone
    assert not jax.config.jax_enable_compilation_cache  # which cannot give back what is for other devices
    outcome = check(project, "--topology=v0:1x2", "--plan", "--batch=80")
    refused(outcome, 71, "A step with 40 pictures a chip needs", "leave out --plan to find", command="preflight")
    assert "does not fit" in outcome.out
    refused(check(project, "--plan"), 64, "--plan is of a slice of TPUs; give one", command="preflight")
    refused(check(project, f"--out={out}/inner.json"), 74, f"{out} cannot be written to", command="preflight")
    silent = requirements.Plan((8, 8), 2, 0, 2**30, False, 1.0, {}, 0)  # a compiler that does not say how much
    assert command._memory(silent) == "more than 1.00 GiB"


def test_how_the_largest_batch_was_looked_for_is_said(project, planned):
    outcome = check(project, "--topology=v0:1x2", "--batch=8")
    assert outcome.code == 0, outcome
    last = outcome.out.splitlines()[-3:]
    assert last[0].startswith("Largest batch that fits: ")
    assert last[1].startswith("Planned for 4, ") and "takes beside its own, for code above all." in last[1]
    number = int(last[0].split()[4])
    assert number in (7, 8) and f"{number}" in last[1]
    assert last[2] == f"--batch={2 * number} --nosearch compiles it to the end."
    assert len(outcome.out.split("pictures a chip, 8 in all")) == 2


def test_a_teacher_that_is_not_there(project, refused):
    refused(check(project, arg="taught"), 64, "teacher is not here; give --teacher=RECIPE", command="preflight")
    refused(
        check(project, "--teacher=nowhere", arg="taught"),
        64,
        "--teacher=nowhere is neither here nor a recipe.",
        command="preflight",
    )
    refused(check(project, "--teacher=bccd"), 64, "no use for --teacher", command="preflight")
    for name in ("bccd", "other"):
        (project.folder / name).mkdir()
    with contextlib.chdir(project.folder):
        assert (
            command._teacher("bccd").to_dict() == load_recipe("bccd").student.to_dict()
        )  # a folder of that name holds no weights
    refused(
        check(project, "--teacher=other", arg="taught"), 64, "holds no detector.json, and is no", command="preflight"
    )


def test_teachers_are_told_apart_by_name():
    recipe = {"teachers": {"large": {}, "web": {}}}
    assert command._teachers(["large=bccd"], recipe)["large"].to_dict() == load_recipe("bccd").student.to_dict()
    assert set(command._teachers(["large=bccd", "bccd"], recipe)) == {"large", ""}
    assert command._teachers([""], recipe) == {}
    with pytest.raises(ConfigError, match="--teacher=large=bccd is the second one for the same teacher"):
        command._teachers(["large=bccd", "large=bccd"], recipe)


def test_a_teacher_without_weights_serves(runs, project, tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    shutil.copy(runs.alone / "student" / "detector.json", folder)
    outcome = check(project, "--nosearch", arg="taught")
    assert outcome.code == 0, outcome
    assert f"The teacher is described in {folder / 'detector.json'}." in outcome.out
    assert "2 classes, those of the recipe's data." in outcome.out


def test_topologies_that_are_none(project, refused, monkeypatch):
    refused(check(project, "--topology=v5e"), 64, "There is no topology 'v5e'", command="preflight")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    refused(check(project, "--topology=v5e:2x4"), 64, "pip install 'jaxkd-detection[tpu]'", command="preflight")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the extra 'tpu', is not installed")
def test_a_slice_of_tpus_that_is_not_here(project, tmp_path):
    out = tmp_path / "record.json"
    start = [sys.executable, "-m", "jaxkd.cli.main", "preflight", f"--config={project.recipe}", "--nosearch"]
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}

    def run(*flags):
        return subprocess.run(
            [*start, *flags], cwd=project.folder, env=environment, capture_output=True, text=True, timeout=900
        )

    done = run("--topology=v5e:2x2", f"--out={out}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "v5e:2x2: 4 x TPU v5e, 16.00 GiB, 197 TFLOP/s in bfloat16, 819 GB/s" in done.stdout
    record = json.loads(out.read_text())
    (probe,) = record["probes"]
    assert set(probe["program"]["collectives"]) == {"all-reduce"}
    assert probe["program"]["collectives"]["all-reduce"]["bytes"] == pytest.approx(record["trainable"], rel=0.01)
    assert probe["bound"]["seconds"] > 0
    done = run("--topology=v5e:2x2", "--plan", f"--out={out}")
    assert (done.returncode, done.stderr) == (0, "")
    outline = json.loads(out.read_text())
    (planned,) = outline["plans"]
    assert planned["collectives"] == probe["program"]["collectives"]
    code = probe["program"]["memory"]["program"]  # of a step as small as this one, nearly a half
    assert 0.5 * (probe["needed"] - code) < planned["needed"] < probe["needed"]
    wrong = run("--topology=v5e:3x3")
    assert wrong.returncode == 64
    assert wrong.stderr.startswith("jaxkd preflight: There is no topology 'v5e:3x3'")
