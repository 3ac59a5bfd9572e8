"""The folder of compiled programs: whose it is, and that a second process compiles nothing."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jaxkd.cli import main as program
from jaxkd.errors import StorageError
from jaxkd.train import compile_cache

PROGRAM = """
import sys
from jaxkd.train import compile_cache
assert "jax" not in sys.modules
compile_cache.use()
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
print(jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.arange(6.0).reshape(2, 3)), len(hits))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the compiled programs of a user without wishes lie."""
    monkeypatch.delenv(compile_cache.FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jaxkd" / "compiled"


def test_the_folder_is_its_owners_alone(folder):
    compile_cache.use()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.environ[compile_cache.FOLDER] == str(folder)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_can_write_is_refused(folder, mode, capsys):
    folder.mkdir(parents=True)
    folder.chmod(mode)
    with pytest.raises(StorageError, match=r"can be written by other users, .* JAXKD_COMPILE_CACHE=off\.$"):
        compile_cache.use()
    assert program.main(["train"]) == 74
    assert capsys.readouterr().err.startswith("jaxkd train: The folder of compiled programs ")
    assert compile_cache.FOLDER not in os.environ


def test_a_folder_of_another_user_is_refused(folder, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: folder.parent.parent.stat().st_uid + 1)
    with pytest.raises(StorageError, match="belongs to another user"):
        compile_cache.use()


def test_wishes_are_heard(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(compile_cache.SWITCH, "off")
    compile_cache.use()
    assert not folder.exists() and compile_cache.FOLDER not in os.environ
    monkeypatch.delenv(compile_cache.SWITCH)
    monkeypatch.setenv(compile_cache.FOLDER, str(tmp_path / "mine"))
    compile_cache.use()
    assert (tmp_path / "mine").is_dir() and not folder.exists()
    monkeypatch.setenv(compile_cache.FOLDER, "gs://bucket/compiled")
    compile_cache.use()
    assert os.environ[compile_cache.FOLDER] == "gs://bucket/compiled"


def test_without_a_place_there_is_no_cache(folder):
    folder.parent.write_text("a file in its place")
    compile_cache.use()
    assert compile_cache.FOLDER not in os.environ


def test_a_second_process_compiles_nothing_and_says_the_same(folder, tmp_path):
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(program.__file__).parents[2])
    first, second = (
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True)
        for _ in range(2)
    )
    assert (first.stderr, second.stderr) == ("", "")
    assert first.stdout.split() == ["83.0", "0"]
    assert second.stdout.split()[0] == "83.0" and int(second.stdout.split()[1]) > 0
    assert any(folder.iterdir())
