"""Keepers with made-up processes: whose exit code wins, and who is ended."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from ports import free_port

from jaxkd.cluster import supervisor
from jaxkd.cluster.heartbeat import Heartbeat
from jaxkd.cluster.process_info import ProcessInfo

NAP = "import time; time.sleep(60)"


def ended(*scripts, grace=0.5):
    """The exit codes of one supervisor a script, and the seconds that all took."""
    coordinator, codes, began = f"localhost:{free_port()}", {}, time.monotonic()

    def keep(process, script):
        call = Heartbeat(ProcessInfo(coordinator, len(scripts), process), patience=20.0)
        codes[process] = supervisor.supervise(call, [sys.executable, "-c", script], grace=grace)

    threads = [threading.Thread(target=keep, args=item) for item in enumerate(scripts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [codes[process] for process in range(len(scripts))], time.monotonic() - began


@pytest.fixture(autouse=True)
def no_signals(monkeypatch):
    """Keepers in threads, where no signal can be handled."""
    monkeypatch.setattr(supervisor, "_handled_signals", list)
    monkeypatch.setattr(supervisor, "CAUSE_DELAY", 1.0)


@pytest.mark.parametrize(
    ("scripts", "codes"),
    [
        (("", ""), [0, 0]),
        (("raise SystemExit(75)", "raise SystemExit(75)"), [75, 75]),
        (("raise SystemExit(64)", NAP), [64, 64]),
        ((NAP, "raise SystemExit(76)", NAP), [76, 76, 76]),
        ((NAP, "import os; os.kill(os.getpid(), 9)"), [77, 77]),
        ((NAP, "import os; os.abort()"), [77, 77]),
        (("raise ValueError", NAP), [70, 70]),
        (("raise SystemExit(70)", NAP), [70, 70]),
    ],
)
def test_exit_codes(scripts, codes, capfd):
    found, seconds = ended(*scripts)
    assert found == codes and seconds < 30
    if NAP in scripts:
        assert "ended with exit code" in capfd.readouterr().err


def test_a_signal_is_passed_on():
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    outside = (
        "import sys; from jaxkd.cluster import supervisor; from jaxkd.cluster.process_info import ProcessInfo; "
        "from jaxkd.cluster.heartbeat import Heartbeat; "
        f"line = Heartbeat(ProcessInfo('localhost:{free_port()}', 1, 0)); "
        "sys.exit(supervisor.supervise(line, [sys.executable, '-c', sys.argv[1]]))"
    )
    process = subprocess.Popen([sys.executable, "-c", outside, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    process.stdout.close()


def test_a_process_ends_with_its_supervisor():
    read, write = os.pipe()
    script = (
        "import time; from jaxkd.cluster import supervisor; supervisor.guard(); print('on', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {supervisor.PIPE: str(read)}, pass_fds=(read,),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(read)
    assert process.stdout.readline() == "on\n"
    os.close(write)
    assert process.wait(timeout=30) == 77
    process.stdout.close()
    supervisor.guard()  # without a supervisor, nothing
