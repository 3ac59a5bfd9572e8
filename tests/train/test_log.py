"""What a run writes down, and that each step is in it once."""

import json

import pytest

from jaxkd.train.log import Log, read


class Notes:
    """A sink that notes what it is shown."""

    name = "Notes"

    def __init__(self):
        self.shown = []

    def begin(self, start, earlier):
        self.shown.append(("begin", start, list(earlier)))
        return f"Notes from step {start} on."

    def scalars(self, step, values):
        self.shown.append((step, values))

    def text(self, name, text):
        self.shown.append((name, text))

    def pictures(self, step, images):
        self.shown.append((step, list(images)))

    def close(self):
        self.shown.append("close")


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


def test_sinks_are_shown_each_line_in_groups(tmp_path, capsys):
    sinks = [Notes(), Notes()]
    log = begun(Log(tmp_path, steps=4, sinks=sinks))
    log.text("recipe", "{}")
    log.report(2, {"loss": 0.5, "tar/box": float("nan"), "class": 0.25}, wait_share=0.25, step_seconds=0.5)
    log.scores(2, {"AP": 0.25, "VOC AP": 0.5})
    log.pictures(2, lambda: {"pictures/7": None})
    log.refreshed(2, ["gkd"], seconds=1.5)
    log.close()
    assert sinks[0].shown == [
        ("begin", 0, []),
        ("recipe", "{}"),
        (2, {"time/step_seconds": 0.5, "time/data_wait_share": 0.25, "train/loss": 0.5, "train/class": 0.25}),
        (2, {"val/AP": 0.25, "val/VOC AP": 0.5}),
        (2, ["pictures/7"]),
        (2, {"time/refresh_seconds": 1.5}),
        "close",
    ]
    assert sinks[1].shown == sinks[0].shown
    assert capsys.readouterr().out.count("Notes from step 0 on.") == 2


def test_a_sink_that_comes_later_is_given_what_was_before(tmp_path):
    log = begun(Log(tmp_path, steps=8, quiet=True))
    reported(log, 2, 4, 6)
    log.scores(4, {"AP": 0.25})
    notes = Notes()
    log = begun(Log(tmp_path, steps=8, quiet=True, sinks=[notes]), 4)
    reported(log, 6)
    log.close()
    (_, start, earlier), later, _ = notes.shown
    assert start == 4 and [step for step, _ in earlier] == [2, 4, 4]
    assert earlier[0][1]["train/loss"] == 0.2 and earlier[2][1] == {"val/AP": 0.25}
    assert later[0] == 6


def test_a_sink_that_raises_takes_nothing_away(tmp_path, capsys):
    broken, notes = Notes(), Notes()
    broken.shown = None  # so that it cannot note a thing
    log = begun(Log(tmp_path, steps=8, sinks=[broken, notes]))
    reported(log, 2, 4)
    log.close()
    assert capsys.readouterr().out.count("Notes is left out from here on: ") == 1
    assert [line["step"] for line in read(tmp_path)] == [2, 4]
    assert [step for step, _ in notes.shown[1:-1]] == [2, 4]


def test_the_log_of_another_process_has_no_sinks(tmp_path):
    notes = Notes()
    log = begun(Log(tmp_path, steps=8, silent=True, sinks=[notes]))
    reported(log, 2)
    log.pictures(2, dict)
    log.close()
    assert notes.shown == []
