"""Boxes at random: inside the picture, of all sizes, other ones for another key."""

import jax
import numpy as np
from jax import numpy as jnp

from jaxkd.ops.random_boxes import random_boxes

SIZE = jnp.asarray([100.0, 400.0])


def draw(seed, count=4000):
    return np.asarray(random_boxes(jax.random.key(seed), SIZE, count=count))


def test_inside_the_picture_and_with_an_area():
    boxes = draw(0)
    assert boxes.shape == (4000, 4)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 400).all() and (boxes[:, 3] <= 100).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_sides_are_log_uniform_and_of_their_own():
    boxes = draw(1)
    inner = boxes[(boxes > 0).all(1) & (boxes[:, 2] < 400) & (boxes[:, 3] < 100)]  # not cut
    sides = (inner[:, 2:] - inner[:, :2]) / np.asarray([400, 100])
    assert 0.03 <= sides.min() < 0.031 and 0.6 < sides.max() <= 0.8
    shares = np.log(sides / 0.03) / np.log(0.8 / 0.03)
    small = shares < 0.4  # which are seldom cut
    assert abs((shares[small] < 0.2).mean() - 0.5) < 0.03
    assert abs(np.corrcoef(shares.T)[0, 1]) < 0.1


def test_other_boxes_for_another_key():
    assert (draw(0) == draw(0)).all() and not (draw(0, 10) == draw(2, 10)).any()
