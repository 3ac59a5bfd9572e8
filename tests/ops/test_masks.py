from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from jaxkd.ops import masks as ops
from jaxkd.ops.boxes import flip

ONE = jnp.array([[8.0, 16, 40, 48]])
TWO = jnp.array([[8.0, 16, 40, 48], [24, 16, 56, 48]])
MAP = {"shape": (8, 8), "stride": 8}


def gaussian(boxes, **options):
    return ops.gaussian_mask(boxes, valid=jnp.ones(boxes.shape[0], bool), **(MAP | options))


def hard(boxes, **options):
    return ops.hard_mask(boxes, valid=jnp.ones(boxes.shape[0], bool), **(MAP | options))


def slow_masks(boxes, shape, stride, sigma_sq=2.0):
    gauss, inside = np.zeros(shape), np.zeros(shape)
    for x0, y0, x1, y1 in np.array(boxes, float):
        held = False
        for row in range(shape[0]):
            for column in range(shape[1]):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                if x0 <= x <= x1 and y0 <= y <= y1:
                    u, v = (2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0)
                    gauss[row, column] = max(gauss[row, column], np.exp(-(u * u + v * v) / sigma_sq))
                    inside[row, column], held = 1, True
        row, column = int((y0 + y1) / 2 // stride), int((x0 + x1) / 2 // stride)
        if not held and row < shape[0] and column < shape[1]:
            gauss[row, column] = inside[row, column] = 1
    return gauss, inside


def random_boxes(seed, count=4):
    # Odd quarters of a pixel: no edge or centre falls on the centre or the edge of a cell.
    rng = np.random.default_rng(seed)
    corner, side = rng.integers(0, 40, (count, 2)), 2 * rng.integers(0, 12, (count, 2))
    return jnp.array(np.concatenate([corner, corner + side + 0.5], axis=1) + 0.125, jnp.float32)


def test_cell_centers():
    y, x = ops.cell_centers((2, 3), 8)
    np.testing.assert_allclose(y, [4, 12])
    np.testing.assert_allclose(x, [4, 12, 20])


def test_hard_golden():
    expected = np.zeros((8, 8))
    expected[2:6, 1:5] = 1
    np.testing.assert_array_equal(hard(ONE), expected)


def test_gaussian_golden():
    mask = gaussian(ONE)
    expected = np.zeros((8, 8))
    expected[2:6, 1:5] = 0.731616
    expected[2:6:3, 1:5:3] = 0.569783
    expected[3:5, 2:4] = 0.939413
    np.testing.assert_allclose(mask, expected, atol=1e-6)
    np.testing.assert_allclose(mask.sum(), 11.889709, rtol=1e-6)
    np.testing.assert_allclose(gaussian(TWO).sum(), 18.573823, rtol=1e-6)


def test_edges_belong_to_the_box():
    """All four edges run through centres of cells: five cells a side, at -1, -1/2, 0, 1/2 and 1 half sides."""
    mask = gaussian(jnp.array([[4.0, 4, 36, 36]]))
    bump = np.exp(-np.square([-1, -0.5, 0, 0.5, 1]) / 2)
    expected = np.zeros((8, 8))
    expected[:5, :5] = np.outer(bump, bump)
    np.testing.assert_allclose(mask, expected, atol=1e-6)
    np.testing.assert_allclose(mask.sum(), 15.824922, rtol=1e-6)


def test_gaussian_on_whole_cells_golden():
    mask = gaussian(ONE, grid="legacy_int")
    np.testing.assert_allclose(mask.sum(), 11.367177, rtol=1e-6)
    np.testing.assert_allclose(mask[4, 1:5], np.exp([-0.5, -0.125, 0, -0.125]), rtol=1e-6)


def test_gaussian_at_centre_side_and_corner():
    mask = gaussian(jnp.array([[0.5, 0.5, 100.5, 200.5]]), shape=(202, 102), stride=1, sigma_sq=1.5)
    np.testing.assert_allclose(mask[100, 50], 1, atol=1e-6)
    np.testing.assert_allclose(mask[0, 50], np.exp(-1 / 1.5), rtol=1e-5)
    np.testing.assert_allclose(mask[0, 0], np.exp(-2 / 1.5), rtol=1e-5)


def test_sum_clip_adds_up_to_one():
    one, other = gaussian(TWO[:1]), gaussian(TWO[1:])
    np.testing.assert_allclose(gaussian(TWO, merge="sum_clip"), np.minimum(one + other, 1), atol=1e-6)


@pytest.mark.parametrize("grid", ["center", "legacy_int"])
def test_tiny_box_gets_the_cell_of_its_centre(grid):
    boxes = jnp.array([[17.0, 9, 19, 11], [44, 44, 44, 44]])
    expected = np.zeros((8, 8))
    expected[1, 2] = expected[5, 5] = 1
    np.testing.assert_array_equal(gaussian(boxes, grid=grid), expected)
    np.testing.assert_array_equal(hard(boxes), expected)


def test_tiny_box_on_a_border_gets_the_cells_on_both_sides():
    expected = np.zeros((8, 8))
    expected[1, 1:3] = expected[4:6, 4:6] = 1
    boxes = jnp.array([[15.0, 9, 17, 11], [38, 38, 42, 42]])
    np.testing.assert_array_equal(gaussian(boxes), expected)
    np.testing.assert_array_equal(hard(boxes), expected)
    single = np.zeros((8, 8))
    single[1, 2] = 1
    np.testing.assert_array_equal(gaussian(boxes[:1], grid="legacy_int"), single)


def test_mirrored_boxes_of_whole_pixels_have_mirrored_masks():
    corners = np.sort(np.random.default_rng(0).integers(0, 33, (500, 1, 2, 2)) * 2, axis=2)  # many edges meet centres
    boxes = jnp.array(corners.reshape(500, 1, 4), jnp.float32)
    for op in (gaussian, hard):
        each = jax.jit(jax.vmap(op))
        np.testing.assert_array_equal(each(flip(boxes, 64)), each(boxes)[:, :, ::-1])


def test_box_off_the_map_leaves_it_empty():
    boxes = jnp.array([[100.0, 100, 140, 140], [-60, 0, -20, 30]])
    assert not np.any(gaussian(boxes)) and not np.any(hard(boxes))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_are_the_slow_ones_and_invariances(seed):
    boxes = random_boxes(seed)
    gauss, inside = slow_masks(boxes, **MAP)
    np.testing.assert_allclose(gaussian(boxes), gauss, atol=1e-5)
    np.testing.assert_array_equal(hard(boxes), inside)
    np.testing.assert_allclose(gaussian(flip(boxes, 64)), gauss[:, ::-1], atol=1e-5)
    np.testing.assert_array_equal(hard(flip(boxes, 64)), inside[:, ::-1])
    reordered = jnp.concatenate([boxes[::-1], boxes[:1]])
    np.testing.assert_array_equal(gaussian(reordered), gaussian(boxes))
    assert np.all(gaussian(jnp.concatenate([boxes, random_boxes(seed + 1)])) >= gaussian(boxes))


def test_padded_boxes_change_neither_value_nor_gradient():
    junk = jnp.concatenate([TWO, jnp.array([[jnp.nan] * 4, [0, 0, 64, 64], [-jnp.inf, 0, jnp.inf, 9]])])
    valid = jnp.arange(5) < 2
    for op in (partial(ops.gaussian_mask, **MAP), partial(ops.hard_mask, **MAP)):
        weight = jnp.arange(64.0).reshape(8, 8)

        def total(boxes, valid, op=op, weight=weight):
            return jnp.sum(op(boxes, valid=valid) * weight)

        value, gradient = jax.value_and_grad(total)(junk, valid)
        plain, plain_gradient = jax.value_and_grad(total)(TWO, valid[:2])
        np.testing.assert_allclose(value, plain, rtol=1e-6)
        np.testing.assert_allclose(gradient, np.pad(plain_gradient, ((0, 3), (0, 0))), atol=1e-6)
        assert not np.any(op(junk, valid=valid & False))


def test_works_under_vmap_and_jit():
    valid = jnp.array([[True, False], [True, True]])
    both = jax.jit(jax.vmap(lambda valid: ops.gaussian_mask(TWO, valid=valid, **MAP)))(valid)
    np.testing.assert_allclose(both.sum(axis=(1, 2)), [11.889709, 18.573823], rtol=1e-6)


def test_extent_golden():
    mask = ops.extent_mask(jnp.array([9, 16]), shape=(3, 3), stride=8)
    np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_box_level_golden():
    sides = jnp.array([0.0, 1.0, 111.9, 112, 223.9, 224, 447.9, 448, 896, 10000])
    boxes = jnp.stack([0 * sides, 0 * sides, sides, sides], axis=-1)
    np.testing.assert_array_equal(ops.box_level(boxes, levels=5), [0, 0, 0, 1, 1, 2, 2, 3, 4, 4])
    np.testing.assert_array_equal(ops.box_level(boxes, levels=4, first=3), [0, 0, 0, 0, 0, 1, 1, 2, 3, 3])
    just_below = jnp.array([[0.0, 0.0, 223.99, 223.99]])
    np.testing.assert_array_equal(ops.box_level(just_below, levels=4, epsilon=1e-3), [2])


def test_box_level_is_the_slow_one():
    sides = np.random.default_rng(0).uniform(1, 1500, (50, 2)).astype(np.float32)
    boxes = jnp.array(np.concatenate([0 * sides, sides], axis=1))
    expected = np.clip(np.floor(4 + np.log2(np.sqrt(sides.prod(axis=1)) / 224)), 2, 6) - 2
    np.testing.assert_array_equal(ops.box_level(boxes, levels=5), expected)


def test_refuses_misuse():
    with pytest.raises(ValueError, match="sigma_sq"):
        gaussian(ONE, sigma_sq=0.0)
    with pytest.raises(ValueError, match="stride"):
        hard(ONE, stride=0)
    with pytest.raises(ValueError, match="Levels"):
        ops.box_level(ONE, levels=0)
