"""The package is installed by a name of its own, wherever an installation is named."""

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from jaxkd.version import DISTRIBUTION, VERSION, install_line

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXTS = {".py", ".md", ".toml", ".ipynb", ".sh", ".yaml", ".yml", ".sbatch", ".json", ".txt", ""}
# "jaxkd[extra]", or "pip install jaxkd" with any flags between; names such as jaxkd-detection are others
STRANGER = re.compile(r"(?<![\w./-])jaxkd\[[a-z]|pip\d? install(?: +-\S+)* +[\"']?jaxkd(?![\w./-])")


def texts():
    """The files of the project that people read or run: what git tracks, or all there is without it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    files = [ROOT / name for name in names] or [file for file in ROOT.rglob("*") if ".venv" not in file.parts]
    return [file for file in files if file.is_file() and file.suffix in TEXTS and file != Path(__file__)]


def test_nothing_says_to_install_the_other_project():
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in texts()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if STRANGER.search(line)
    ]
    assert not found, found


@pytest.mark.parametrize("line", ["pip install 'jaxkd[onnx]'", "pip install -q jaxkd", '"jaxkd[onnx] @ git+https://x"'])
def test_the_other_project_would_be_found(line):
    assert STRANGER.search(line)


@pytest.mark.parametrize(
    "line", [install_line("onnx"), "pip install ./jaxkd", "python -m jaxkd.cli.main", "jaxkd train"]
)
def test_ours_is_not_mistaken_for_it(line):
    assert not STRANGER.search(line)


def test_the_name_of_the_messages_is_that_of_the_package():
    assert PROJECT["name"] == DISTRIBUTION
    assert metadata.version(DISTRIBUTION) == VERSION


@pytest.mark.parametrize("extra", ["onnx", "tflite", "tensorboard", "wandb", "tpu"])
def test_the_extras_that_messages_name_exist(extra):
    assert extra in PROJECT["optional-dependencies"]
    assert install_line(extra) == f"pip install '{DISTRIBUTION}[{extra}]'"
