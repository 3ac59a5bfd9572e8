"""What a run writes down, and that each step is in it once."""

import json

import pytest

from jaxkd.train.log import Log, read


def reported(log, *steps):
    for step in steps:
        log.report(step, {"loss": step / 10}, wait_share=0.25, step_seconds=0.5)


def test_lines(tmp_path, capsys):
    log = Log(tmp_path, steps=4, start=0)
    reported(log, 2, 4)
    log.scores(4, {"AP": 0.25, "AP50": 0.5, "AP75": 0.125})
    log.close()
    assert read(tmp_path) == [
        {"step": 2, "step_seconds": 0.5, "data_wait_share": 0.25, "loss": 0.2},
        {"step": 4, "step_seconds": 0.5, "data_wait_share": 0.25, "loss": 0.4},
        {"step": 4, "scores": {"AP": 0.25, "AP50": 0.5, "AP75": 0.125}},
    ]
    said = capsys.readouterr().out
    assert "step 2/4" in said and "loss 0.200" in said and "500 ms/step" in said and "data 25%" in said
    assert "step 4: AP 25.0  AP50 50.0  AP75 12.5" in said


def test_quiet(tmp_path, capsys):
    log = Log(tmp_path, steps=4, start=0, quiet=True)
    reported(log, 2)
    log.say("hello")
    log.close()
    assert capsys.readouterr().out == ""
    assert [line["step"] for line in read(tmp_path)] == [2]


def test_going_on_keeps_what_was_before(tmp_path):
    reported(Log(tmp_path, steps=8, start=0, quiet=True), 2, 4, 6)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # the process was killed here
    reported(Log(tmp_path, steps=8, start=4, quiet=True), 6, 8)
    assert [line["step"] for line in read(tmp_path)] == [2, 4, 6, 8]


def test_a_new_run_starts_an_empty_file(tmp_path):
    reported(Log(tmp_path, steps=8, start=0, quiet=True), 2, 4)
    reported(Log(tmp_path, steps=8, start=0, quiet=True), 2)
    assert [line["step"] for line in read(tmp_path)] == [2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_stay_json(tmp_path, value):
    log = Log(tmp_path, steps=1, start=0, quiet=True)
    log.report(1, {"loss": value}, wait_share=0.0, step_seconds=0.1)
    log.scores(1, {"AP": value, "AP50": 0.5, "AP75": value})
    text = (tmp_path / "metrics.jsonl").read_text()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert lines[0]["loss"] is None
    assert lines[1]["scores"] == {"AP": None, "AP50": 0.5, "AP75": None}


def test_nothing_to_read(tmp_path):
    assert read(tmp_path) == []
