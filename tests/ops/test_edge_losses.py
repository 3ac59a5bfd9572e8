"""Losses of distributions of edges: examples by hand, the inverse of `moved`, slow forms, and directions."""

import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops import boxes as box_ops
from jaxkd.ops.edge_bins import bin_values, moved
from jaxkd.ops.edge_losses import between_bins, fine_grained_loss, self_distillation_loss, shifts_to

SCALE = jnp.asarray(4.0)
FOUR = bin_values(4, up=jnp.asarray(0.5), scale=SCALE)  # -4 -2 0 2 4
START = jnp.asarray([0.5, 0.5, 0.4, 0.2])


@pytest.mark.parametrize(
    ("shift", "lower", "weights"),
    [(-5, 0, (1, 0)), (-1, 1, (0.5, 0.5)), (0.5, 2, (0.75, 0.25)), (3, 3, (0.5, 0.5)), (4, 3, (0, 1)), (9, 3, (0, 1))],
)
def test_targets_between_bins(shift, lower, weights):
    found = between_bins(jnp.asarray(float(shift)), FOUR)
    assert found.lower == lower
    np.testing.assert_allclose([1 - found.share, found.share], weights, atol=1e-6)


def test_the_loss_of_a_box_by_hand():
    truth = box_ops.centred(jnp.asarray([0.25, 0.38, 0.72, 0.65]))
    shifts = shifts_to(START, truth, scale=SCALE)
    np.testing.assert_allclose(shifts, [0.5, 0.4, 0.2, 1.0], atol=1e-5)
    np.testing.assert_allclose(between_bins(shifts, FOUR).share, [0.25, 0.2, 0.1, 0.5], atol=1e-5)
    edges = jnp.zeros((4, 5)).at[:, 2].set(math.log(3))
    corners = box_ops.corners_of(moved(START, jax.nn.softmax(edges) @ FOUR, scale=SCALE))
    np.testing.assert_allclose(corners, [0.3, 0.4, 0.7, 0.6], atol=1e-6)
    iou = box_ops.paired_iou(corners, box_ops.corners_of(truth))
    np.testing.assert_allclose(iou, 0.630418, atol=1e-5)
    np.testing.assert_allclose((iou * fine_grained_loss(edges, shifts, FOUR)).sum(), 2.863820, atol=1e-5)


def test_shifts_are_the_inverse_of_moved():
    draw = np.random.default_rng(0)
    start = jnp.asarray(draw.uniform(0.1, 0.9, (30, 4)))
    shifts = jnp.asarray(draw.normal(size=(30, 4)))
    boxes = moved(start, shifts, scale=SCALE)
    np.testing.assert_allclose(shifts_to(start, boxes, scale=SCALE), shifts, atol=1e-4)
    assert np.isfinite(shifts_to(jnp.zeros(4), jnp.ones(4), scale=SCALE)).all()


def test_the_fine_grained_loss_is_the_slow_form_and_least_at_the_target():
    draw = np.random.default_rng(1)
    values = np.asarray(bin_values(8, up=jnp.asarray(0.5), scale=SCALE))
    edges, shifts = draw.normal(size=(12, 9)), draw.uniform(-5, 5, 12)
    found = fine_grained_loss(jnp.asarray(edges), jnp.asarray(shifts), jnp.asarray(values))
    for row, shift, loss in zip(edges, np.clip(shifts, -4, 4), np.asarray(found), strict=True):
        m = max(place for place in range(8) if values[place] <= shift)
        weights = np.array([values[m + 1] - shift, shift - values[m]]) / (values[m + 1] - values[m])
        chances = np.log(np.exp(row) / np.exp(row).sum())
        np.testing.assert_allclose(loss, -(weights * chances[m : m + 2]).sum(), rtol=1e-4)
    target = np.log(np.full((1, 9), 1e-9) + np.eye(9)[3] * 0.3 + np.eye(9)[4] * 0.7)
    shift = jnp.asarray([0.3 * values[3] + 0.7 * values[4]])
    gradient = jax.grad(lambda x: fine_grained_loss(x, shift, jnp.asarray(values)).sum())(jnp.asarray(target))
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_what_a_layer_learns_of_the_last_one_by_hand():
    """The matched query, whose weight is its IoU, and one that is not, with its probability .75 for weight."""
    student = jnp.zeros((4, 5)).at[:, 2].set(math.log(3))
    teacher = jnp.zeros((4, 5)).at[:, 3].set(5 * math.log(2))
    matched = (0.630418 * self_distillation_loss(student, teacher)).mean()
    np.testing.assert_allclose(matched, 0.946947, atol=1e-5)
    teacher = jnp.zeros((4, 5)).at[:, 1].set(5 * math.log(3))
    other = (0.75 * self_distillation_loss(jnp.zeros((4, 5)), teacher)).mean()
    np.testing.assert_allclose(other, 2.519280, atol=1e-5)
    np.testing.assert_allclose((matched + other) / 2, 1.733113, atol=1e-5)


def test_the_last_layer_learns_nothing_and_equals_lose_nothing():
    draw = np.random.default_rng(2)
    one, other = (jnp.asarray(draw.normal(size=(3, 4, 9))) for _ in range(2))
    np.testing.assert_allclose(self_distillation_loss(one, one), 0, atol=1e-5)
    to_one, to_teacher = jax.grad(lambda *edges: self_distillation_loss(*edges).sum(), argnums=(0, 1))(one, other)
    assert np.asarray(to_one).any() and not np.asarray(to_teacher).any()
