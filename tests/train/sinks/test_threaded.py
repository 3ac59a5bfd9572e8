"""A sink that fails, hangs or falls behind: said once, and training goes on."""

import threading
import time
from functools import partial

import pytest

from jaxkd.train.sinks import threaded


class Recorder:
    """Notes its calls; those in `faults` raise, those in `hanging` never return."""

    name = "Recorder"

    def __init__(self, *, faults=(), hanging=()):
        self.calls, self.faults, self.hanging = [], faults, hanging

    def _note(self, call, *arguments):
        self.calls.append((call, *arguments))
        if call in self.hanging:
            threading.Event().wait()
        if call in self.faults:
            raise RuntimeError(f"no {call} today.\nmore")
        return "look there" if call == "begin" else None

    def begin(self, start, earlier):
        return self._note("begin", start, list(earlier))

    def scalars(self, step, values):
        return self._note("scalars", step, dict(values))

    def text(self, name, text):
        return self._note("text", name, text)

    def pictures(self, step, images):
        return self._note("pictures", step, dict(images))

    def close(self):
        return self._note("close")


def shown(sink, said, *, patience=5.0):
    """A short run, handed to a sink."""
    thread = threaded.ThreadedSink(sink, say=said.append, patience=patience)
    thread.submit(partial(sink.begin, 0, []))
    for step in (1, 2, 3):
        thread.submit(partial(sink.scalars, step, {"train/loss": 1.0}))
        time.sleep(0.01)
    thread.close()
    return [call for call, *_ in sink.calls]


def test_calls_in_their_order_and_what_there_is_to_say():
    said = []
    assert shown(Recorder(), said) == ["begin", "scalars", "scalars", "scalars", "close"]
    assert said == ["look there"]


@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        ("begin", ["begin", "close"]),
        ("scalars", ["begin", "scalars", "close"]),
        ("close", ["begin", "scalars", "scalars", "scalars", "close", "close"]),
    ],
)
def test_a_failure_is_said_once_and_ends_the_sink(fault, calls):
    said = []
    assert shown(Recorder(faults=(fault,)), said) == calls
    assert said[-1] == f"Recorder is left out from here on: no {fault} today. Nothing else is lost."
    assert len([line for line in said if "left out" in line]) == 1


@pytest.mark.parametrize("call", ["begin", "scalars", "close"])
def test_a_sink_that_hangs_has_its_time_and_no_more(call):
    said, began = [], time.monotonic()
    shown(Recorder(hanging=(call,)), said, patience=0.2)
    assert time.monotonic() - began < 2
    assert said[-1] == "Recorder is left out from here on: it did not come to its end in 0.2 s. Nothing else is lost."


def test_a_sink_that_falls_far_behind_is_left(monkeypatch):
    monkeypatch.setattr(threaded, "WAITING", 3)
    said, sink = [], Recorder(hanging=("scalars",))
    thread = threaded.ThreadedSink(sink, say=said.append)
    for step in range(9):
        thread.submit(partial(sink.scalars, step, {}))
        time.sleep(0.01)
    thread.close()  # at once: it is over
    assert said == ["Recorder is left out from here on: it is 3 reports behind. Nothing else is lost."]
    assert [call for call, *_ in sink.calls] == ["scalars"]


def test_the_end_gets_through_behind_all_that_waits(monkeypatch):
    monkeypatch.setattr(threaded, "WAITING", 3)
    said, sink, go = [], Recorder(), threading.Event()
    thread = threaded.ThreadedSink(sink, say=said.append)
    for call in (go.wait, *[partial(sink.scalars, step, {}) for step in (1, 2, 3)]):
        thread.submit(call)
        time.sleep(0.01)
    threading.Timer(0.1, go.set).start()
    thread.close()
    assert [call for call, *_ in sink.calls] == ["scalars", "scalars", "scalars", "close"]
    assert not any("left out" in str(line) for line in said)
