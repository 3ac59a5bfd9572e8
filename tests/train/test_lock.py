"""One run a workdir: who is refused, who waits, and who takes over from the dead."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from jaxkd.errors import StorageError
from jaxkd.train.lock import NAME, Lock, token


def taken(folder, said=None, **options):
    lock = Lock(folder, say=(said if said is not None else []).append, **options)
    lock.take()
    return lock


def test_f24_a_second_run_is_refused_and_told_by_whom(tmp_path):
    lock = taken(tmp_path)
    with pytest.raises(StorageError, match=rf"in use by process {os.getpid()} on .*, since 20.*wait for that run"):
        taken(tmp_path)
    assert token(tmp_path) == lock.token != ""
    lock.release()
    said = []
    taken(tmp_path, said).release()
    assert said == [] and token(tmp_path) == ""


def test_f24_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    script = (
        "import os, sys, pathlib; from jaxkd.train.lock import Lock; Lock(pathlib.Path(sys.argv[1])).take(); "
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert killed.returncode == -9 and token(tmp_path)
    said = []
    taken(tmp_path, said).release()
    assert "ended without unlocking the workdir; this one takes it over" in said[0]


def elsewhere(folder, age):
    (folder / NAME).write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "2026-01-01", "token": "t"}))
    os.utime(folder / NAME, (time.time() - age,) * 2)


def test_f24_a_silent_run_on_another_host_is_waited_for_and_taken_over(tmp_path):
    elsewhere(tmp_path, age=1)
    said, began = [], time.monotonic()
    taken(tmp_path, said, silence=2.0).release()
    assert 0.5 < time.monotonic() - began < 20
    assert "process 1 on elsewhere, since 2026-01-01 1 s ago; waiting" in said[0] and "takes it over" in said[1]
    elsewhere(tmp_path, age=100)
    began = time.monotonic()
    taken(tmp_path, said, silence=60.0).release()
    assert time.monotonic() - began < 5


def test_f24_a_living_run_on_another_host_is_not_disturbed(tmp_path):
    elsewhere(tmp_path, age=0)
    holder = Lock(tmp_path, beat=0.2)
    threading.Thread(target=holder._heartbeat, daemon=True).start()  # its signs of life
    with pytest.raises(StorageError, match="in use by process 1 on elsewhere"):
        taken(tmp_path, silence=20.0)
    holder.release()


def test_a_lock_gives_signs_of_life(tmp_path):
    lock = taken(tmp_path, beat=0.05)
    os.utime(tmp_path / NAME, (0, 0))
    end = time.monotonic() + 10
    while (tmp_path / NAME).stat().st_mtime < 1 and time.monotonic() < end:
        time.sleep(0.02)
    assert (tmp_path / NAME).stat().st_mtime > 1
    lock.release()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        taken(tmp_path / "nowhere")
