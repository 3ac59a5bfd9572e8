"""The speed of a run's steps is told once, a part of the run done."""

from jaxkd.train.sinks.pace import Pace


def told(laps, *, at, start=0):
    said, heard = [], []
    pace = Pace(at, lambda seconds: heard.append(seconds) or "A sentence.", say=said.append)
    pace.begin(start, [])
    for step, seconds in laps:
        pace.scalars(step, {"time/step_seconds": seconds, "train/loss": 1.0})
        pace.scalars(step, {"val/AP": 0.5})
    return heard, said


def test_it_is_told_at_the_first_report_from_the_step_on():
    heard, said = told([(10, 9.0), (20, 1.0), (40, 3.0), (50, 8.0)], at=35)
    assert heard == [(10 * 1.0 + 20 * 3.0) / 30] and said == ["A sentence."]  # without the first report


def test_a_single_report_counts():
    assert told([(50, 2.0), (100, 9.0)], at=20)[0] == [2.0]


def test_a_run_that_goes_on_behind_the_step_says_nothing():
    assert told([(60, 2.0)], at=20, start=40) == ([], [])


def test_nothing_is_said_where_nothing_is_known():
    said = []
    pace = Pace(1, lambda seconds: "", say=said.append)
    pace.begin(0, [])
    pace.scalars(1, {"time/step_seconds": 1.0})
    assert not said
