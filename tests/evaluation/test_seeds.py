"""The interval over seeds and pictures: each source of spread alone gives the textbook's, and it holds what it says."""

import numpy as np
import pytest

from jaxkd.evaluation.seeds import over_seeds


def test_seeds_alone_give_students_interval():
    gains = np.array([0.02, 0.05, 0.08])
    found = over_seeds(np.repeat(gains[:, None], 5, axis=1))
    half = 4.302653 * 0.03 / np.sqrt(3)  # t of 2 degrees of freedom, from a table
    assert found.gains == (0.02, 0.05, 0.08)
    assert [found.mean.difference, found.mean.low, found.mean.high] == pytest.approx([0.05, 0.05 - half, 0.05 + half])


def test_pictures_alone_give_the_normal_interval():
    resampled = np.array([0.0, -0.01, 0.01, -0.01, 0.01])
    found = over_seeds(np.stack([0.05 + resampled, 0.05 + resampled]))
    assert found.mean.high - found.mean.difference == pytest.approx(1.959964 * 0.01)


def test_what_has_no_objects_has_no_interval():
    found = over_seeds(np.full((2, 3), np.nan))
    assert not found.mean.known and np.isnan(found.mean.difference)
    assert not over_seeds(np.ones((2, 3)), few=True).mean.known


def test_nineteen_of_twenty_intervals_hold_the_truth():
    random, held = np.random.default_rng(0), 0
    for _ in range(1000):
        pictures = random.normal(0, 1, 60)  # what the pictures that were drawn favour, the same for all seeds
        seeds = random.normal(0, 0.2, 3)
        rows = [np.arange(60), *(random.integers(0, 60, 60) for _ in range(200))]
        found = over_seeds(np.array([[1 + seed + pictures[row].mean() for row in rows] for seed in seeds]))
        held += found.mean.low <= 1 <= found.mean.high
    assert 0.93 < held / 1000 < 0.98
