"""The ladder of anchors: best IoUs against all anchors of the grid, the choice, and the scales that follow."""

import drawn
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.data import loader
from jaxkd.derive import anchors
from jaxkd.ops.anchors import inside, pyramid_anchors

STRIDES = (4, 8, 16, 32)
FEEDING = loader.Config(buckets=((160, 224), (224, 160)), short=(160,), long=224)


def all_anchors(grid):
    shapes = [tuple(int(-(-side // stride)) for side in (224, 224)) for stride in grid.strides]
    return pyramid_anchors(shapes, strides=grid.strides, sizes=grid.sizes, ratios=grid.ratios, offset=grid.offset)


def slow(box, extent, made):
    """The IoU of a box with its best anchor, by trying all of the grid."""
    boxes = np.asarray(made.boxes)[np.asarray(inside(made, jnp.asarray(extent, jnp.float32)))].astype(float)
    overlap = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return (overlap / (areas + (box[2:] - box[:2]).prod() - overlap)).max()


@pytest.mark.parametrize(("octaves", "offset"), [(1, 0.0), (2, 0.0), (3, 0.5)])
def test_best_ious_are_those_of_all_anchors(octaves, offset):
    source = drawn.scattered(4, sides=(8, 300), each=6)
    wide = drawn.scattered(2, sides=(8, 300), each=6, size=(640, 480), seed=1)
    objects = anchors.objects_in([*source.records, *wide.records], FEEDING)
    level_sizes = tuple(tuple(7.0 * 2 ** (level + step / octaves) for step in range(octaves)) for level in range(4))
    grid = anchors.Grid(STRIDES, level_sizes, offset=offset)
    made = all_anchors(grid)
    wanted = [slow(box, extent, made) for box, extent in zip(objects.boxes, objects.extents, strict=True)]
    np.testing.assert_allclose(anchors.best_ious(objects, grid), wanted, atol=1e-5)


def test_objects_are_resized_as_the_loader_does_it():
    crowd = drawn.record([(0, 0, 64, 48), (0, 0, 9, 9)], labels=[1, 0], crowd=[False, True])
    objects = anchors.objects_in([crowd, drawn.record([(8, 8, 16, 16)], size=(80, 80), index=1)], FEEDING)
    np.testing.assert_allclose(objects.boxes, [[0, 0, 64 * 213 / 640, 16], [16, 16, 32, 32]], rtol=1e-6)
    np.testing.assert_allclose(objects.extents, [[160, 213], [160, 160]])
    assert objects.labels.tolist() == [1, 0]


def test_an_object_that_is_an_anchor():
    grid = anchors.Grid((8,), ((32.0,),), ratios=(1.0,))
    objects = anchors.Objects(np.array([[0.0, 0, 32, 32]]), np.zeros(1, np.int32), np.array([[64.0, 64]]))
    assert anchors.best_ious(objects, grid) == 1.0  # around the cell's corner at (16, 16)
    assert anchors.recall(objects, grid, iou=0.7) == 1.0


def test_the_ladder_fits_objects_of_one_side():
    objects = anchors.objects_in(drawn.scattered(60, sides=(60, 60)).records, FEEDING)
    choice = anchors.ladder(objects, strides=STRIDES, octaves=2)
    sizes = [size for level in anchors.grid_of(choice.value, strides=STRIDES, octaves=2).sizes for size in level]
    assert min(abs(np.log2(np.array(sizes) / 20))) < 1 / 6  # 60 pixels are 20 after the resize
    assert choice.words.startswith("100 % of training objects have an anchor of IoU .5, ")
    assert [finer / size for size, finer in zip(choice.value, choice.value[1:], strict=False)] == [2.0] * 3


def test_a_rare_class_of_small_objects_is_not_lost():
    source = drawn.scattered(100, sides=(230, 235), rare=0.06, rare_side=40)
    objects = anchors.objects_in(source.records, FEEDING)
    rare = objects.taken(objects.labels == 1)
    assert 0.03 < len(rare.boxes) / len(objects.boxes) < 0.1
    chosen = anchors.grid_of(anchors.ladder(objects, strides=STRIDES, octaves=1).value, strides=STRIDES, octaves=1)
    alike = anchors.Objects(objects.boxes, np.zeros_like(objects.labels), objects.extents)
    other = anchors.grid_of(anchors.ladder(alike, strides=STRIDES, octaves=1).value, strides=STRIDES, octaves=1)
    assert anchors.recall(rare, other, iou=0.5) < 0.1
    assert anchors.recall(rare, chosen, iou=0.5) > 0.7


def test_scales_are_to_the_finest_anchors_as_for_coco():
    assert [anchors.canonical_scale(size, stride=4) for size in (32.0, 8.0)] == [224.0, 56.0]
    assert anchors.canonical_scale(16.0, stride=8) == 56.0  # a level coarser
    assert [anchors.scale_on_finest(scale, stride=4) for scale in (224.0, 56.0)] == [56.0, 14.0]
    assert anchors.scale_on_finest(224.0, stride=8) == 112.0  # twice as large on a level coarser
