"""What a run writes down, and that each step is in it once."""

import json

import pytest

from jaxkd.train.log import Log, read


def begun(log, start=0):
    log.begin(start)
    return log


def reported(log, *steps):
    for step in steps:
        log.report(step, {"loss": step / 10}, wait_share=0.25, step_seconds=0.5)


def test_lines(tmp_path, capsys):
    log = Log(tmp_path, steps=4)
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
    log = Log(tmp_path, steps=4, quiet=True)
    reported(log, 2)
    log.say("hello")
    log.close()
    assert capsys.readouterr().out == ""
    assert [line["step"] for line in read(tmp_path)] == [2]


def test_going_on_keeps_what_was_before(tmp_path):
    reported(Log(tmp_path, steps=8, quiet=True), 2, 4, 6)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # the process was killed here
    reported(begun(Log(tmp_path, steps=8, quiet=True), 4), 6, 8)
    assert [line["step"] for line in read(tmp_path)] == [2, 4, 6, 8]


def test_what_was_rebuilt_at_the_first_step_is_rebuilt_again(tmp_path):
    log = Log(tmp_path, steps=8, quiet=True)
    reported(log, 4)
    log.refreshed(4, ["gkd"], seconds=1.0)
    begun(log, 4)
    assert [line["step"] for line in read(tmp_path)] == [4] and "loss" in read(tmp_path)[0]


def test_lines_outlive_a_folder_that_is_away(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    log = Log(folder, steps=8)
    reported(log, 2)
    folder.rename(tmp_path / "away")
    reported(log, 4, 6)
    assert capsys.readouterr().out.count("cannot be written") == 1
    (tmp_path / "away").rename(folder)
    reported(log, 8)
    assert [line["step"] for line in read(folder)] == [2, 4, 6, 8]


def test_a_silent_log_writes_nothing(tmp_path, capsys):
    log = Log(tmp_path, steps=8, silent=True)
    reported(begun(log), 2)
    log.close()
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_a_new_run_starts_an_empty_file(tmp_path):
    reported(begun(Log(tmp_path, steps=8, quiet=True)), 2, 4)
    reported(begun(Log(tmp_path, steps=8, quiet=True)), 2)
    assert [line["step"] for line in read(tmp_path)] == [2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_stay_json(tmp_path, value):
    log = Log(tmp_path, steps=1, quiet=True)
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
