"""Two runs of a small project, one alone and one taught by the first, and what a refusal looks like."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from projects import Outcome, Project, make_project


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> SimpleNamespace:
    """Two finished runs, `alone` and `taught`, with what the command said of each; to be read and not written to."""
    folder = tmp_path_factory.mktemp("runs")
    project = make_project(folder / "project", teacher=str(folder / "alone" / "student"))
    said = {name: project.train(folder / name, arg=name) for name in ("alone", "taught")}
    for name, outcome in said.items():
        assert outcome.code == 0, f"{name}: {outcome}"
    return SimpleNamespace(project=project, said=said, alone=folder / "alone", taught=folder / "taught")


@pytest.fixture
def project(tmp_path) -> Project:
    """A project of the test's own, whose taught recipe has the folder `teacher` for a teacher."""
    return make_project(tmp_path / "project", teacher=str(tmp_path / "teacher"))


@pytest.fixture
def teacher(runs, tmp_path) -> Path:
    """A copy of a good teacher, where the recipe of `project` looks for it."""
    return Path(shutil.copytree(runs.alone / "student", tmp_path / "teacher"))


@pytest.fixture
def refused(runs):
    """A check that an outcome is one clear sentence on stderr with an exit code, and names what it is about."""

    def check(outcome: Outcome, code: int, *words: object, command: str = "train") -> None:
        assert outcome.code == code, outcome
        assert "Traceback" not in outcome.out + outcome.err
        lines = [line for line in outcome.err.splitlines() if line.startswith("jaxkd")]
        assert len(lines) == 1, outcome.err
        assert outcome.err.endswith(f"{lines[0]}\n")
        assert lines[0].startswith(f"jaxkd {command}: ")
        assert lines[0].endswith(".")
        for word in words:
            assert str(word) in lines[0], f"{word!r} is not in: {lines[0]}"

    return check
