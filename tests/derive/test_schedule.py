"""Length, batch, rate and evaluations: golden numbers by the number of pictures."""

import pytest

from jaxkd.derive import schedule


@pytest.mark.parametrize(
    ("pictures", "batch", "epochs"),
    [(205, 8, 55), (500, 8, 41), (8000, 16, 16), (20_000, 16, 12), (118_287, 16, 12), (61, 8, 80), (10, 1, 80)],
)
def test_epochs(pictures, batch, epochs):
    assert schedule.epochs(pictures, batch=batch).value == epochs


def test_a_run_has_600_steps():
    choice = schedule.epochs(61, batch=16)
    assert choice == (158, "600 steps at least")
    assert schedule.steps_of(158, 61, batch=16) == 603


def test_epochs_as_asked_for_and_of_a_teacher():
    assert schedule.epochs(205, batch=8, wanted=3) == (3, "as asked for")
    assert schedule.epochs(205, batch=8, times=2) == (110, "2 times the student's 55")


@pytest.mark.parametrize(
    ("pictures", "platform", "devices", "batch"),
    [
        (205, "cpu", 1, 8),
        (205, "gpu", 1, 16),
        (100, "gpu", 1, 8),
        (61, "cpu", 1, 4),
        (5, "cpu", 1, 1),
        (205, "tpu", 3, 15),
        (5, "gpu", 8, 8),
    ],
)
def test_batches(pictures, platform, devices, batch):
    assert schedule.batch(pictures, platform=platform, devices=devices).value == batch


@pytest.mark.parametrize(
    ("start", "batch", "learning_rate", "warmup"),
    [
        ("random", 8, 0.003, 50),
        ("random", 16, 0.00424, 50),
        ("pretrained", 8, 0.001, 100),
        ("pretrained", 16, 0.00141, 100),
    ],
)
def test_rates(start, batch, learning_rate, warmup):
    rate, words = schedule.rate(start, batch=batch)
    assert (rate.kind, rate.learning_rate, rate.warmup_steps) == ("adamw", learning_rate, warmup)
    assert rate.clip_norm == 10.0 and rate.schedule == "cosine"
    assert "at a batch of 8" in words


def test_the_moving_average_is_over_as_many_pictures():
    assert schedule.ema(8).value == 0.998
    assert schedule.ema(16).value ** 2 == pytest.approx(0.998, abs=1e-5)


def test_evaluations_take_a_tenth_of_the_time():
    assert schedule.evaluations(1000, pictures=24, batch=8).value == 100  # ten at most
    assert schedule.evaluations(1000, pictures=960, batch=8).value == 500  # of the time of 40 steps each
    assert schedule.evaluations(1000, pictures=10**5, batch=8).value == 1000  # the last one at least
