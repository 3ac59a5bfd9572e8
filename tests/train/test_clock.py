"""Where the time of a run goes, by a clock that the test moves."""

import dataclasses

import pytest

from jaxkd.train import clock
from jaxkd.types import Batch

BATCH = Batch(
    **dict.fromkeys((field.name for field in dataclasses.fields(Batch)), 0) | {"teacher": None, "further": {}}
)


class Hands:
    """A monotonic clock."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def hands(monkeypatch):
    made = Hands()
    monkeypatch.setattr(clock, "time", made)
    return made


def passing(hands, seconds, value=None):
    hands.now += seconds
    return value


def slow(hands, *waits):
    for wait in waits:
        yield passing(hands, wait, BATCH)


def test_f17_waiting_for_slow_storage_is_told_apart_from_training(hands):
    made = clock.Clock()
    batches = slow(hands, 0.0, 10.0, 0.0)
    for _ in range(3):
        made.next_batch(batches)
        passing(hands, 2.0)
    share, step = made.lap(3)
    assert (share, step) == (pytest.approx(10 / 16), pytest.approx(16 / 3))
    assert made.wait_share == pytest.approx(10 / 16)


def test_what_is_paused_is_not_training(hands):
    made = clock.Clock()
    assert made.paused("compiling", passing, hands, 60.0, 7) == 7
    passing(hands, 4.0)
    assert made.lap(2) == (0.0, 2.0)
    assert "compiling 94%" in made.shares()


def test_what_is_left_is_known_from_the_second_lap_on(hands):
    made = clock.Clock()
    made.paused("compiling", passing, hands, 60.0)
    passing(hands, 30.0)
    made.lap(10)
    assert made.remaining(80, evaluations=1) is None  # of the first lap nobody knows what was warming up
    made.paused("evaluating", passing, hands, 5.0)
    passing(hands, 10.0)
    made.lap(10)
    assert made.remaining(80, evaluations=2) == pytest.approx(80 * 1.0 + 2 * 5.0)
