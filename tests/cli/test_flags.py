"""Recipes and flags on the command line: what is put in, and what is refused in one sentence."""

import importlib
import re
from pathlib import Path

import projects
import pytest
from absl import flags

from jaxkd.cli.flags import choice, define_path, parse, recipe
from jaxkd.cli.main import COMMANDS
from jaxkd.errors import ConfigError


def define(values):
    flags.DEFINE_string("out", "here", "Folder.", flag_values=values)
    flags.DEFINE_integer("count", 3, "Number.", flag_values=values, lower_bound=1)


def test_flags_with_and_without_an_equals_sign():
    values, rest = parse("try", ["--out=there", "--count", "5"], define)
    assert (values.out, values.count, rest) == ("there", 5, [])
    values, rest = parse("try", ["a", "--count=4", "b"], define, positional="NAME...")
    assert (values.out, values.count, rest) == ("here", 4, ["a", "b"])


def test_a_flag_is_switched_off_with_and_without_a_dash():
    def switch(values):
        define(values)
        flags.DEFINE_bool("teacher", True, "Show it.", flag_values=values)

    for argv in (["--noteacher"], ["--no-teacher"], ["--teacher=false"]):
        assert not parse("try", argv, switch)[0].teacher
    with pytest.raises(ConfigError, match="no flag --no-out"):
        parse("try", ["--no-out"], switch)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--cuont=4"], "no flag --cuont; the closest is 'count'"),
        (["--count=many"], "many"),
        (["--count=0"], "count"),
        (["--out"], "out"),
        (["stray"], "'stray' is not a flag; jaxkd try takes flags only"),
    ],
)
def test_flags_that_are_refused(argv, said):
    with pytest.raises(ConfigError, match=said) as caught:
        parse("try", argv, define)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_commands_do_not_share_their_flags():
    parse("one", [], define)
    with pytest.raises(ConfigError):
        parse("two", ["--count=4"], lambda values: None)


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("try", ["--help"], define)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "usage: jaxkd try" in out
    assert "--out: Folder. (default 'here')" in out
    assert "--count: Number. (default 3)" in out
    assert "--h:" not in out and "--config" not in out
    for argv in (["--help"], ["--config.train.steps=4", "-h", "--counts=4"]):
        with pytest.raises(SystemExit):
            parse("try", argv, define, with_recipe=True)
        assert "--config.FIELD: A value for any field of the recipe" in capsys.readouterr().out


def test_a_recipe_with_its_argument_and_overrides(project):
    argv = [
        f"--config={project.recipe}:taught",
        "--config.train.steps=7",
        "--config.distill.tar.classification.weight",
        "2.5",
        "--config.optimizer.milestones=(0.5,)",
        "--config.data.loader.cache=True",
        "--workdir=there",
    ]
    config, rest = recipe(argv)
    assert rest == ["--workdir=there"]
    assert (config.train.steps, config.distill.tar.classification.weight) == (7, 2.5)
    assert config.optimizer.milestones == (0.5,)
    assert config.data.loader.cache is True
    assert set(config.distill.keys()) == {"tar", "mimic", "gkd"}
    assert not recipe([f"--config={project.recipe}"])[0].distill.keys()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stesp=3", ("config.train.stesp", "closest is 'steps'")),
        ("student.bakbone.depth=18", ("config.student.bakbone.depth", "closest is 'backbone'")),
        ("nope=3", ("config.nope", "there are data, distill")),
        ("train.steps.more=3", ("config.train.steps.more",)),
        ("student.backbone=5", ("config.student.backbone has fields of its own", "depth")),
        ("train.steps=many", ("config.train.steps wants a value of type int, got 'many'",)),
        ("train.steps=1.5", ("config.train.steps wants a value of type int, got '1.5'",)),
        ("train.steps", ("config.train.steps wants a value of type int, got ''",)),
        ("optimizer.learning_rate=fast", ("config.optimizer.learning_rate wants a value of type float",)),
        ("data.loader.cache=perhaps", ("config.data.loader.cache wants a value of type bool",)),
        ("optimizer.kind=lion", ("optimizer.kind must be one of 'sgd', 'adamw'; got 'lion'",)),
        ("optimizer.milestones=(0.5,1.5)", ("optimizer.milestones[1] must be above 0 and at most 1, not 1.5",)),
        ("data.loader.buckets=(64,96)", ("data.loader.buckets[0] wants tuple[int, int], got 64",)),
        ("data.loader.short=()", ("short",)),
        ("data.loader.prefetch=-1", ("data.loader.prefetch must be at least 0, not -1",)),
        ("student.backbone.depth=11", ("depth must be one of 10, 18",)),
        ("student.backbone.name=nets.nothing", ("no module 'nets.nothing'",)),
        ("student.name=ops.boxes", ("jaxkd.ops.boxes holds no Config",)),
        ("student.anchors.sizes=(16.0,)", ("anchors.sizes has 1 entries, the pyramid 4 levels",)),
        ("student.rois.samples=0", ("detectors.faster_rcnn.rois.samples must be at least 1, not 0",)),
        ("student.dtype=float99", ("dtype must be one of 'float32', 'bfloat16'",)),
        ("train.steps=0", ("train.loop.steps must be at least 1, not 0",)),
        ("train.report_every=0", ("train.loop.report_every must be at least 1, not 0",)),
        ("train.seed=-1", ("train.loop.seed must be at least 0 and at most 4294967295, not -1",)),
        ("train.ema_decay=2.0", ("train.loop.ema_decay must be at least 0 and below 1, not 2.0",)),
        ("train.devices=99", ("train.devices asks for 99 devices",)),
        ("train.devices=-1", ("train.loop.devices must be at least 0, not -1",)),
    ],
)
def test_overrides_that_are_refused(project, tmp_path, refused, override, words):
    refused(project.train(tmp_path / "run", f"--config.{override}"), 64, *words)
    assert projects.listing(tmp_path / "run") == {}


def test_a_batch_that_does_not_divide_over_the_devices(project, tmp_path, refused):
    outcome = project.train(tmp_path / "run", "--config.train.batch=3", "--config.train.devices=2")
    refused(outcome, 64, "train.batch=3 does not divide over 2 devices")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", ("not valid Python", "line 1")),
        ("\n\nimport nowhere_at_all\n", ("line 3", "nowhere_at_all")),
        ("settings = {}\n", ("defines no get_config",)),
        ("def get_config():\n    return unknown\n", ("line 2", "NameError")),
        ("def get_config():\n    return {}['key']\n", ("line 2", "KeyError('key')")),
        ("def get_config():\n    return 5\n", ("returns no recipe",)),
        (
            "from jaxkd.config import component\ndef get_config():\n    return component('nets.resnet', depht=18)\n",
            ("nets.resnet has no field 'depht'; the closest is 'depth'",),
        ),
        (
            "from jaxkd.config import component\ndef get_config():\n    return component('nets.resnet', depth='x')\n",
            ("nets.resnet.depth wants int, got 'x'",),
        ),
        (
            "from jaxkd.config import component, recipe\n\n\ndef get_config():\n"
            "    return recipe(student=component('nets.resnet'), data={})\n",
            ("lacks ['train', 'val']",),
        ),
    ],
)
def test_recipe_files_that_are_refused(tmp_path, refused, text, words):
    file = tmp_path / "odd.py"
    file.write_text(text)
    refused(projects.call("train", f"--config={file}", f"--workdir={tmp_path / 'run'}"), 64, *words)
    assert not (tmp_path / "run").exists()


def test_a_recipe_from_elsewhere_is_announced_before_it_runs(project, tmp_path, monkeypatch, capsys):
    file = tmp_path / "elsewhere" / "loud.py"
    file.parent.mkdir()
    file.write_text("import sys\nprint('running', file=sys.stderr)\n" + project.recipe.read_text())
    said = f"Notice: the recipe {file} is not below the current folder; it is a program and executes code.\n"
    monkeypatch.chdir(project.folder)
    recipe([f"--config={file}:taught"])
    assert capsys.readouterr().err == said + "running\n"
    for near in ("tiny.py", project.recipe, "bccd"):
        recipe([f"--config={near}"])
    assert capsys.readouterr().err == ""
    monkeypatch.chdir(tmp_path)
    recipe([f"--config={file}"])
    assert capsys.readouterr().err == "running\n"


@pytest.mark.parametrize("address", ["http://localhost/tiny.py", "https://localhost/bccd:taught", "file:///tiny.py"])
@pytest.mark.parametrize("command", ["train", "inspect"])
def test_a_recipe_is_never_fetched(tmp_path, refused, command, address):
    words = ["inspect", "data", "--out"] if command == "inspect" else ["train", "--workdir"]
    outcome = projects.call(*words, tmp_path / "run", f"--config={address}")
    refused(outcome, 64, address, "is not on this machine", command=command)
    assert not (tmp_path / "run").exists()


def test_recipes_and_arguments_that_do_not_exist(project, tmp_path, refused):
    refused(project.train(tmp_path / "run", arg="tought"), 64, "tiny.py", "'tought'")
    unknown = projects.call("train", "--config=bcdc", "--workdir=run")
    refused(unknown, 64, "There is no recipe bcdc", "bccd")
    refused(projects.call("train", f"--config={tmp_path / 'none.py'}", "--workdir=run"), 64, tmp_path / "none.py")
    refused(projects.call("train", f"--config={tmp_path}", "--workdir=run"), 64, tmp_path)
    refused(projects.call("train", "--workdir=run"), 64, "--config=FILE")
    refused(projects.call("train", f"--config={project.recipe}"), 64, "--workdir=DIR")
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_may_be_left_out():
    chosen, rest = choice(["--out=there", "config", "a"])
    assert (chosen.recipe(), rest) == (None, ["--out=there", "config", "a"])
    chosen, rest = choice(["--config=bccd:alone", "--out=there"])
    assert chosen.recipe().train.batch and rest == ["--out=there"]
    with pytest.raises(
        ConfigError, match=r"^--config.train.steps is a field of a recipe; name a recipe: --config=FILE"
    ):
        choice(["--config.train.steps=3"])[0].recipe()


def test_the_recipe_of_a_run_is_overridden(project):
    of_run, _ = recipe([f"--config={project.recipe}:taught"])
    chosen, _ = choice(["--config.data.val.annotations=other.json", "--config.train.evaluate_batch=2"])
    found = chosen.recipe(of_run)
    assert found.data.val.annotations == str(Path.cwd() / "other.json")
    assert (found.train.evaluate_batch, of_run.train.evaluate_batch) == (2, 4)
    assert choice([])[0].recipe(of_run).to_json() == of_run.to_json()


def test_paths_mean_the_same_from_any_folder(project, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(project.folder)
    argv = ["--config=tiny.py:taught", "--config.teacher=~/teacher", "--config.data.train.images=pictures/../images"]
    found, _ = recipe([*argv, "--config.initial=assets:bccd_teacher"])
    assert found.teacher == str(tmp_path / "teacher")
    assert found.data.train.images == str(project.folder / "images")
    assert found.initial == "assets:bccd_teacher"
    (tmp_path / "tiny.py").write_text(project.recipe.read_text())
    assert recipe(["--config=~/tiny.py:alone"])[0].train.batch == 4


def test_the_home_folder_in_flags_and_arguments(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    def define(values):
        define_path("out", "", "Folder.", values=values)

    values, rest = parse("try", ["--out=~/there", "~/a.jpg", "./~b"], define, positional="FILE...")
    assert (values.out, rest) == (f"{tmp_path}/there", [f"{tmp_path}/a.jpg", "./~b"])
    with pytest.raises(ConfigError, match=r"There is no home folder ~nobody-of-this-name; write the path .* out"):
        parse("try", ["--out=~nobody-of-this-name/there"], define)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "help"])
def test_no_flag_that_holds_a_path_takes_the_tilde_for_a_name(command):
    """Every flag of text whose help speaks of a folder or file is one of `define_path`."""
    values = flags.FlagValues()
    importlib.import_module(f"jaxkd.cli.{command}").define(values)
    for name in values:
        if type(values[name].parser) is flags.ArgumentParser:
            assert not re.search(r"\b(folder|file)\b", values[name].help, re.IGNORECASE), name
