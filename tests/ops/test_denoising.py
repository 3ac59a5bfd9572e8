"""Denoising queries: numbers of groups, distances of positives and negatives, labels, padding, and who sees whom."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops import denoising

BOXES = jnp.asarray([[0.4, 0.5, 0.2, 0.1], [0.7, 0.3, 0.1, 0.3], [0.0, 0.0, 0.0, 0.0]])
LABELS, VALID = jnp.asarray([1, 4, 0]), jnp.asarray([True, True, False])
GROUPS = 400


@pytest.mark.parametrize(
    ("most", "groups", "queries"),
    [(1, 100, 200), (3, 33, 198), (7, 14, 196), (40, 2, 160), (100, 1, 200), (130, 1, 260)],
)
def test_numbers_of_groups(most, groups, queries):
    assert denoising.group_count(most, queries=100) == groups
    assert 2 * groups * most == queries


@pytest.fixture(scope="module")
def noised():
    make = jax.jit(denoising.noised, static_argnames=("classes", "groups"))
    found = make(jax.random.key(0), BOXES, LABELS, VALID, classes=5, groups=GROUPS)
    return denoising.Noised(*(np.asarray(leaf).reshape(GROUPS, 2, 3, *leaf.shape[1:]) for leaf in found))


def test_positives_are_near_and_negatives_farther(noised):
    half = np.tile(np.asarray(BOXES)[:2, 2:], 2) / 2
    truth = np.concatenate((BOXES[:2, :2] - half[:, 2:], BOXES[:2, :2] + half[:, 2:]), -1)
    boxes = noised.boxes[:, :, :2]
    low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    moves = np.abs(np.concatenate((low, high), -1) - truth) / half
    assert moves[:, 0].max() <= 1.0001 and moves[:, 0].min() < 0.05 and abs(moves[:, 0].mean() - 0.5) < 0.02
    apart = np.abs(np.concatenate((low, high), -1) - truth)[:, 1] / half
    # Beside edges that change roles where both move by more than half a side.
    assert apart.max() <= 2.0001 and apart.mean() > 0.9
    assert (noised.boxes >= 0).all() and (noised.boxes[..., :2] <= 1).all()


def test_a_quarter_of_labels_is_drawn(noised):
    changed = (noised.labels[:, :, :2] != np.asarray(LABELS)[:2]).mean()
    assert abs(changed - 0.25 * 4 / 5) < 0.03  # a fifth of those drawn is the label again
    assert set(np.unique(noised.labels)) == set(range(5))


def test_positives_are_to_find_their_truth_and_others_none(noised):
    assert (noised.truth[:, 0] == [0, 1, -1]).all() and (noised.truth[:, 1] == -1).all()
    assert (noised.valid == [True, True, False]).all()
    assert np.isfinite(noised.boxes).all()


def test_what_padding_holds_changes_nothing():
    make = jax.jit(lambda boxes, labels: denoising.noised(jax.random.key(1), boxes, labels, VALID, classes=5, groups=2))
    one, other = make(BOXES, LABELS), make(BOXES.at[2].set(jnp.nan), LABELS.at[2].set(99))
    for leaf, same in zip(one, other, strict=True):
        np.testing.assert_array_equal(leaf, same)


def test_who_sees_whom():
    """Two groups of a truth and a padded one, before two other queries."""
    valid = jnp.asarray([True, False] * 4)
    seen = np.asarray(denoising.seen(valid, groups=2, queries=2))
    others = [False] * 8 + [True] * 2
    first = [True, False, True, False] + [False] * 4 + [True] * 2
    second = [False] * 4 + [True, False, True, False] + [True] * 2
    np.testing.assert_array_equal(seen, [first] * 4 + [second] * 4 + [others] * 2)
