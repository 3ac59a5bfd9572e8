"""Finding a command, and what becomes of what it raises."""

import importlib
import sys

import projects
import pytest

from jaxkd import __version__, errors
from jaxkd.cli import main as program

WITHOUT_WORKDIR = ("inspect", "compare", "convert", "preflight")  # whose flags have tests of their own


def test_help_names_every_command(capsys):
    for argv in ([], ["--help"], ["-h"], ["help"]):
        assert program.main(argv) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in program.COMMANDS)


def test_version(capsys):
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxkd {__version__}\n"


@pytest.mark.parametrize("name", program.COMMANDS)
def test_help_of_each_command(name, capsys):
    with pytest.raises(SystemExit) as caught:
        program.main([name, "--help"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert f"usage: jaxkd {name}" in out
    assert ("--out" if name in WITHOUT_WORKDIR else "--workdir") in out
    assert err == ""


@pytest.mark.parametrize("name", ["trian", "", "report", "--quiet"])
def test_unknown_commands(name, capsys):
    assert program.main([name]) == 64
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"jaxkd: there is no command '{name}'; there are {', '.join(program.COMMANDS)}.\n")


@pytest.mark.parametrize("name", [name for name in program.COMMANDS if name not in WITHOUT_WORKDIR])
def test_unknown_flags(name, refused, project):
    config = [f"--config={project.recipe}"] if name == "train" else []
    refused(
        projects.call(name, *config, "--wrokdir=there"), 64, "no flag --wrokdir; the closest is 'workdir'", command=name
    )
    if name not in ("predict", "explain", "distill"):  # which take pictures, or a folder
        refused(projects.call(name, *config, "stray"), 64, "'stray' is not a flag", command=name)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (errors.ConfigError("It does not fit."), 64, "It does not fit."),
        (errors.DataError("It is no picture."), 65, "It is no picture."),
        (errors.WeightsError("It is another net."), 66, "It is another net."),
        (errors.JaxkdError("It is broken."), 70, "It is broken."),
        (errors.StorageError("It cannot be written."), 74, "It cannot be written."),
        (errors.DivergedError("It is not finite."), 76, "It is not finite."),
        (OSError(28, "No space left on device", "file"), 74, "file: No space left on device."),
        (OSError("odd"), 74, "evaluate: odd."),
        (MemoryError(), 70, "evaluate: out of memory."),
        (KeyboardInterrupt(), 130, "evaluate: stopped."),
    ],
)
def test_faults_become_one_sentence_and_a_code(monkeypatch, refused, raised, code, said):
    def run(argv):
        raise raised

    monkeypatch.setattr(importlib.import_module("jaxkd.cli.evaluate"), "run", run)
    refused(projects.call("evaluate"), code, said, command="evaluate")


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [(MemoryError(), 70, "lower train.batch"), (KeyboardInterrupt(), 130, "goes on from the last checkpoint")],
)
def test_what_to_do_where_training_stops(monkeypatch, refused, raised, code, said):
    def run(argv):
        raise raised

    monkeypatch.setattr(importlib.import_module("jaxkd.cli.train"), "run", run)
    refused(projects.call("train"), code, said)


def test_arguments_of_the_shell(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxkd", "--version"])
    assert program.main() == 0
    assert __version__ in capsys.readouterr().out


def test_faults_that_nobody_foresaw_stay_visible(monkeypatch):
    def run(argv):
        raise ZeroDivisionError

    monkeypatch.setattr(importlib.import_module("jaxkd.cli.evaluate"), "run", run)
    with pytest.raises(ZeroDivisionError):
        program.main(["evaluate"])
