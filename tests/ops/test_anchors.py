import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops import anchors as ops

RATIOS = (0.5, 1.0, 2.0)
SIZES = ((8.0,), (16.0,))


def slow_pyramid(shapes, strides, sizes, ratios, offset):
    rows = []
    for level, (height, width) in enumerate(shapes):
        for row in range(height):
            for column in range(width):
                for ratio in ratios:
                    for size in sizes[level]:
                        w, h = size / ratio**0.5, size * ratio**0.5
                        x, y = (column + offset) * strides[level], (row + offset) * strides[level]
                        rows.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(rows)


def names(grid):
    return {tuple(cell): name for cell, name in zip(np.array(grid.boxes).tolist(), np.array(grid.ids), strict=True)}


def test_base_golden():
    boxes = ops.base_anchors(sizes=(16.0, 32.0), ratios=(0.25, 1.0))
    expected = [[-16, -4, 16, 4], [-32, -8, 32, 8], [-8, -8, 8, 8], [-16, -16, 16, 16]]
    np.testing.assert_allclose(boxes, expected)


def test_base_rounded():
    boxes = ops.base_anchors(sizes=(32.0,), ratios=RATIOS, rounded=True)
    np.testing.assert_array_equal(boxes, [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]])


def test_pyramid_golden():
    grid = ops.pyramid_anchors([(1, 2), (1, 1)], strides=(8, 16), sizes=((4.0,), (8.0,)), ratios=(1.0,), offset=0.5)
    np.testing.assert_allclose(grid.boxes, [[2, 2, 6, 6], [10, 2, 14, 6], [4, 4, 12, 12]])
    np.testing.assert_allclose(grid.cells, [[0, 0], [0, 8], [0, 0]])
    np.testing.assert_array_equal(grid.ids, [0, 1 << 5, 1 << 29])
    np.testing.assert_array_equal(grid.levels, [0, 0, 1])
    assert grid.ids.dtype == jnp.uint32


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_is_the_slow_one(offset):
    shapes, strides, sizes = [(3, 4), (2, 2)], (8, 16), ((8.0, 11.0), (16.0, 23.0))
    grid = ops.pyramid_anchors(shapes, strides=strides, sizes=sizes, ratios=RATIOS, offset=offset)
    np.testing.assert_allclose(grid.boxes, slow_pyramid(shapes, strides, sizes, RATIOS, offset), atol=1e-4)
    assert len(set(np.array(grid.ids).tolist())) == grid.boxes.shape[0]


def test_names_do_not_depend_on_padding():
    small = ops.pyramid_anchors([(3, 4), (2, 2)], strides=(8, 16), sizes=SIZES, ratios=RATIOS)
    large = ops.pyramid_anchors([(5, 9), (3, 5)], strides=(8, 16), sizes=SIZES, ratios=RATIOS)
    few, many = names(small), names(large)
    assert few.items() <= many.items()
    shared = [name for name in np.array(large.ids).tolist() if name in set(np.array(small.ids).tolist())]
    assert shared == np.array(small.ids).tolist()


def test_inside_keeps_the_cells_that_begin_in_the_picture():
    grid = ops.pyramid_anchors([(2, 3)], strides=(8,), sizes=((8.0,),), ratios=(1.0,))
    np.testing.assert_array_equal(ops.inside(grid, jnp.array([8, 17])), [True, True, True, False, False, False])
    np.testing.assert_array_equal(ops.inside(grid, jnp.array([9, 16])), [True, True, False, True, True, False])


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_respaced_anchors_equal_those_of_the_steps_of_each_picture(offset):
    shapes, strides = [(3, 4), (2, 2)], (8, 16)
    steps = [[(8, 8), (16, 14)], [(7, 9), (15, 16)]]
    options = {"sizes": SIZES, "ratios": RATIOS, "offset": offset, "rounded": True}
    grid = ops.pyramid_anchors(shapes, strides=strides, **options)
    each = ops.respace(grid, jnp.array(steps), strides=strides, offset=offset)
    for boxes, own in zip(each.boxes, steps, strict=True):
        np.testing.assert_allclose(boxes, ops.pyramid_anchors(shapes, strides=own, **options).boxes, atol=1e-5)
    np.testing.assert_array_equal(each.cells, grid.cells)


def test_boxes_of_each_picture_by_their_places():
    grid = ops.pyramid_anchors([(3, 4), (2, 2)], strides=(8, 16), sizes=SIZES, ratios=RATIOS)
    each = ops.respace(grid, jnp.array([[[8, 8], [16, 16]], [[8, 8], [15, 14]]]), strides=(8, 16))
    index, span = jnp.array([[0, 5], [4, 4]]), slice(36, 48)  # of the second level
    np.testing.assert_array_equal(grid.boxes_at(span, index), grid.boxes[36 + index])
    np.testing.assert_array_equal(each.boxes_at(span, index)[1], each.boxes[1, 36 + index[1]])
    counts = jax.vmap(lambda grid, size: ops.inside(grid, size).sum(), (each.axes, 0))(
        each, jnp.array([[8, 8], [24, 32]])
    )
    np.testing.assert_array_equal(counts, [2 * 3, 12 * 3 + 4 * 3])


def test_works_under_vmap_and_jit():
    grid = ops.pyramid_anchors([(2, 3)], strides=(8,), sizes=((8.0,),), ratios=(1.0,))
    sizes = jnp.array([[8, 17], [9, 16]])
    kept = jax.jit(jax.vmap(ops.inside, in_axes=(None, 0)))(grid, sizes)
    np.testing.assert_array_equal(kept.sum(axis=1), [3, 4])


def test_refuses_misuse():
    with pytest.raises(ValueError, match="as many shapes"):
        ops.pyramid_anchors([(2, 3)], strides=(8, 16), sizes=SIZES, ratios=RATIOS)
    with pytest.raises(ValueError, match="cells"):
        ops.pyramid_anchors([(1, 4097)], strides=(8,), sizes=((8.0,),), ratios=RATIOS)
    with pytest.raises(ValueError, match="levels"):
        ops.pyramid_anchors([(1, 1)] * 9, strides=(8,) * 9, sizes=((8.0,),) * 9, ratios=RATIOS)
    with pytest.raises(ValueError, match="above 0"):
        ops.base_anchors(sizes=(0.0,), ratios=RATIOS)
