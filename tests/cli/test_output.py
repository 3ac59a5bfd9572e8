"""What commands print, into whatever reads it."""

import os
import subprocess
import sys

import projects
import pytest

from jaxkd.cli import output

LOST = "its output could not be written"
PROGRAM = [sys.executable, "-m", "jaxkd.cli.main"]


def script(text, **environment):
    """A program that settles its output first: exit code, stdout and stderr as bytes."""
    code = f"from jaxkd.cli import output\noutput.protect_streams()\n{text}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | environment, check=False)
    return done.returncode, done.stdout, done.stderr


def test_what_the_encoding_lacks_is_an_escape():
    code, out, err = script("print('\\u732b gr\\xfcn')", PYTHONIOENCODING="ascii")
    assert (code, out, err) == (0, b"\\u732b gr\\xfcn\n", b"")
    assert script("print('\\u732b gr\\xfcn')", PYTHONIOENCODING="latin-1")[1] == b"\\u732b gr\xfcn\n"
    assert script("print('\\u732b')", PYTHONIOENCODING="utf-8")[1] == "\u732b\n".encode()


def test_names_of_files_are_utf_8_in_any_locale(tmp_path):
    (tmp_path / "\u732b.txt").write_text("there")
    lines = ("import sys", "from jaxkd.cli import output", "output.restart_in_utf8()")
    text = "\n".join([*lines, "print(open('\u732b.txt').read(), sys.stdout.encoding)"])
    (tmp_path / "program.py").write_text(text, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    environment = kept | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "there" and "utf" not in done.stdout.split()[1].lower()


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (
            "--version > /dev/full",
            74,
            "jaxkd --version: some of its output could not be written: No space left on device.",
        ),
        ("--version | true", 0, ""),
        ("--version >&-", 0, ""),
        ("--version >&- 2>&-", 0, ""),
        ("nonsense 2>&-", 64, ""),
    ],
)
def test_output_that_goes_nowhere(command, code, said):
    shell = f"set -o pipefail; {sys.executable} -m jaxkd.cli.main {command}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (code, said)


def test_f26_training_outlives_whoever_reads_its_output(project, tmp_path):
    """A pipe whose other end goes away after the first line; the workdir is that of a run that ends soon."""
    words = ["train", f"--config={project.recipe}:alone", f"--workdir={tmp_path / 'run'}", "--config.train.steps=6"]
    shell = f"{' '.join([*PROGRAM, *words])} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=project.folder, check=False)
    assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr
    assert (tmp_path / "run" / "student" / "weights.safetensors").is_file()
    again = projects.call(*words)
    assert again.code == 0 and "The run was finished at step 6" in again.out


def test_a_reader_that_went_away_is_no_fault_and_a_full_disk_is(monkeypatch):
    assert output.final_code("compare", 0) == 0
    for fault, code in ((BrokenPipeError(32, "Broken pipe"), 0), (OSError(28, "No space left on device"), 74)):
        steady = output.SafeStream(os.open(os.devnull, os.O_WRONLY), encoding="utf-8")
        steady.fault = fault
        monkeypatch.setattr(sys, "stdout", steady)
        assert output.final_code("compare", 0) == code
        assert output.final_code("train", 0) == 0
        assert output.final_code("compare", 65) == 65
