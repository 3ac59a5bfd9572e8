"""Processes that wait for each other: all come, some do not, one is lost, one ends with a word."""

import socket
import threading
import time

import pytest
from ports import free_port

from jaxkd.cluster import heartbeat
from jaxkd.cluster.heartbeat import Ended, Heartbeat
from jaxkd.cluster.process_info import ProcessInfo
from jaxkd.errors import ConfigError, HostLostError


def gathered(count, *, of=None, patience=20.0, **options):
    """The calls of the first `count` processes and what came of each."""
    coordinator, outcomes = f"localhost:{free_port()}", {}
    calls = [Heartbeat(ProcessInfo(coordinator, of or count, p), patience=patience, **options) for p in range(count)]

    def gather(process):
        try:
            outcomes[process] = calls[process].gather()
        except Exception as error:
            outcomes[process] = error

    threads = [threading.Thread(target=gather, args=(process,)) for process in reversed(range(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return calls, outcomes


def test_all_are_there_and_leave_in_peace():
    calls, outcomes = gathered(3)
    name = socket.gethostname()
    assert outcomes == {process: {0: name, 1: name, 2: name} for process in range(3)}
    for call in calls:
        call.leave(0)
    time.sleep(0.2)
    for call in calls[1:]:
        left = [call.news.get_nowait() for _ in range(call.news.qsize())]
        assert all(ended.code == 0 for ended in left)


def test_f21_those_that_do_not_come_are_named_to_all():
    began = time.monotonic()
    _, outcomes = gathered(2, of=4, patience=1.5)
    assert time.monotonic() - began < 20
    for error in outcomes.values():
        assert isinstance(error, HostLostError) and error.exit_code == 77
        assert "Of 4 processes, 2, 3 did not come within 2 s; there are 0 on" in str(error)


def test_f21_a_first_process_that_does_not_come_is_named():
    call = Heartbeat(ProcessInfo(f"localhost:{free_port()}", 2, 1), patience=1.0)
    with pytest.raises(HostLostError, match=r"Process 1 on .* could not reach process 0 at localhost, port .*refused"):
        call.gather()


def test_f22_a_lost_process_is_known_to_all_at_once():
    calls, _ = gathered(3)
    calls[2]._connections[0].shutdown(socket.SHUT_RDWR)  # as the kernel does for a killed process
    lost = Ended(2, socket.gethostname(), None)
    assert calls[0].news.get(timeout=5) == lost and calls[1].news.get(timeout=5) == lost
    assert str(lost) == f"process 2 on {socket.gethostname()} was lost"
    for call in calls:
        call.leave(77)


def test_f22_a_process_that_falls_silent_is_lost():
    calls, _ = gathered(2, beat=0.1, silence=1.0)
    time.sleep(1.5)
    assert calls[0].news.empty() and calls[1].news.empty()
    calls[1]._left.set()  # it gives no sign any more, and its connection stays open
    assert calls[0].news.get(timeout=5).code is None
    for call in calls:
        call.leave(77)


def test_an_exit_code_reaches_all():
    calls, _ = gathered(3)
    calls[1].leave(65)
    assert calls[0].news.get(timeout=5).code == 65
    assert calls[2].news.get(timeout=5) == Ended(1, socket.gethostname(), 65)
    for call in calls[::2]:
        call.leave(65)


def connected(port):
    """A connection to a server that may not be there yet."""
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("localhost", port), timeout=5)
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_strangers_at_the_port_are_ignored():
    coordinator = f"localhost:{free_port()}"
    first, second = (Heartbeat(ProcessInfo(coordinator, 2, process), patience=20.0) for process in (0, 1))
    waiting = threading.Thread(target=first.gather)
    waiting.start()
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"{}\n", b""):
        with connected(first._info.address[1] + 1) as stranger:
            stranger.sendall(said)
    assert len(second.gather()) == 2
    waiting.join()
    for call in (first, second):
        call.leave(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "9.9"}, "runs jaxkd 9.9 and process 0"),
        ({"processes": 3}, "counts 3 processes and process 0"),
        ({"process": 0}, "came twice"),
    ],
)
def test_a_process_of_another_run_is_refused_by_all(monkeypatch, change, words):
    send = heartbeat._send
    monkeypatch.setattr(heartbeat, "_send", lambda line, said: send(line, said | change if "version" in said else said))
    _, outcomes = gathered(2)
    assert all(isinstance(error, ConfigError) and words in str(error) for error in outcomes.values()), outcomes


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(HostLostError, match=f"Port {port} is needed by the heartbeat and not free"):
            Heartbeat(ProcessInfo(f"localhost:{port - 1}", 2, 0), patience=1.0).gather()
