"""How long runs take, and how many steps fit into a time."""

import pytest

from jaxkd.derive import duration
from jaxkd.derive.duration import Runs, Timing
from jaxkd.errors import ConfigError

ALONE = Runs(Timing(starting=40.0, step=0.5), number=3)
TEACHER = Runs(Timing(starting=40.0, step=1.0), length=2)


def test_the_time_of_runs_is_that_of_starts_steps_and_evaluations():
    # Ten evaluations of 3 batches, each a third of a step.
    assert ALONE.seconds(1000, pictures=24, batch=8) == pytest.approx(3 * (20 + 500 + 10 * 0.5))
    assert TEACHER.seconds(1000, pictures=24, batch=8) == pytest.approx(20 + 2000 + 10 * 1.0)
    assert ALONE.evaluation(25, batch=8) == pytest.approx(4 * 0.5 / 3)


def everything(steps):
    return 100 + sum(runs.seconds(steps, pictures=87, batch=8) for runs in (ALONE, TEACHER))


@pytest.mark.parametrize("minutes", [20.0, 63.5, 500.0])
def test_the_steps_that_are_found_fill_the_minutes(minutes):
    found = duration.steps_in(minutes, everything, pictures=205, batch=8)
    assert everything(found.value) <= 60 * duration.USABLE * minutes < everything(found.value + 1)
    assert found.words == f"what {minutes:g} minutes hold"


def test_minutes_that_are_too_few():
    with pytest.raises(
        ConfigError, match=r"In 10 minutes 103 steps .* less than 6 epochs of 205 pictures; 12 take 24 mi"
    ):
        duration.steps_in(10.0, everything, pictures=205, batch=8)
    assert duration.steps_in(10.0, everything, pictures=205, batch=8, anyway=True).value == 103
    with pytest.raises(ConfigError, match="In 1 minutes 0 steps"):
        duration.steps_in(1.0, everything, pictures=205, batch=8, anyway=True)
