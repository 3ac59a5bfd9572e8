"""ATSS: worked examples, a slow dense form in numpy, and what changes nothing."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops import atss as ops

GRID = ops.Grid(shapes=((4, 4), (2, 2)), strides=(8, 16), scale=2.0, offset=0.5)
A, B, C, D = [1.0, 1, 18, 17], [6.0, 3, 30, 27], [2.0, 1, 17, 18], [5.0, 3, 21, 19]
OBJECT, CROWD = 1, 2  # kinds of truth; 0 is padding


@functools.partial(jax.jit, static_argnums=0, static_argnames=("topk", "at_least_one"))
def assign_all(grid, truth, kind, size, topk=9, at_least_one=False):
    """The thresholds and matches of pictures [b]."""

    def one(truth, kind, size):
        valid, crowd = kind == OBJECT, kind == CROWD
        matches = ops.assign(grid, truth, size=size, valid=valid, crowd=crowd, topk=topk, at_least_one=at_least_one)
        return ops.thresholds(grid, truth, size=size, valid=valid, topk=topk), matches

    return jax.vmap(one)(truth, kind, size)


def assign(truth, kind=None, *, grid=GRID, size=(32, 32), **options):
    kind = [OBJECT] * len(truth) if kind is None else kind
    stacked = jnp.array([truth], jnp.float32), jnp.array([kind]), jnp.array([size])
    thresholds, matches = assign_all(grid, *stacked, **options)
    return thresholds[0], jax.tree.map(lambda x: x[0], matches)


def holders(matches):
    """The truth of each positive anchor."""
    return {int(a): int(matches.truth[a]) for a in np.flatnonzero(matches.positive)}


def overlaps(box, anchors):
    low, high = np.maximum(box[:2], anchors[:, :2]), np.minimum(box[2:], anchors[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    return shared / (np.prod(box[2:] - box[:2]) + np.prod(anchors[:, 2:] - anchors[:, :2], axis=1) - shared)


@functools.cache
def anchors_of(grid):
    anchors = grid.anchors()
    return np.array(anchors.boxes), np.array(anchors.cells), np.array(anchors.levels)


def slow_candidates(grid, box, size, topk):
    """Candidates of a truth, its IoU with all anchors, and the anchors with their centres inside it."""
    boxes, cells, levels = anchors_of(grid)
    within = np.all(cells < size, axis=1)
    centers, middle = (boxes[:, :2] + boxes[:, 2:]) / 2, (box[:2] + box[2:]) / 2
    distance = np.sum((centers - middle) ** 2, axis=1)
    chosen = []
    for level in range(len(grid.shapes)):
        anchors_of_level = np.flatnonzero((levels == level) & within)
        chosen.extend(anchors_of_level[np.argsort(distance[anchors_of_level], kind="stable")[:topk]])
    inside = np.minimum(centers - box[:2], box[2:] - centers).min(axis=1) > 0.01
    return np.array(chosen), overlaps(box, boxes), inside, within, centers


def winners(claims):
    """Of claims {(truth, anchor): IoU} the truth that holds each anchor, with its IoU."""
    held = {}
    for (g, a), value in sorted(claims.items()):
        if a not in held or value > held[a][1]:
            held[a] = g, value
    return held


def slow_assign(grid, truth, kind, size, topk=9, at_least_one=False):
    claims, spare, thresholds = {}, {}, np.full(len(truth), np.inf)
    for g in np.flatnonzero(kind == OBJECT):
        chosen, iou, inside, *_ = slow_candidates(grid, truth[g], size, topk)
        values = iou[chosen]
        thresholds[g] = values.mean() + (values.std(ddof=1) if len(values) > 1 else 0.0)
        reached = {int(a): iou[a] >= thresholds[g] for a in chosen if inside[a]}
        claims |= {(g, a): iou[a] for a, enough in reached.items() if enough}
        spare[g] = sorted((-iou[a], int(a)) for a in chosen if inside[a])
    while at_least_one:
        held, new = winners(claims), {}
        for g in set(spare) - {g for g, _ in held.values()}:
            wins = [(a, -v) for v, a in spare[g] if a not in held or (-held[a][1], held[a][0]) > (v, g)]
            new |= {(g, a): v for a, v in wins[:1]}
        claims |= new
        if not new:
            break
    held = winners(claims)
    *_, within, centers = slow_candidates(grid, truth[0], size, topk)
    positive = np.array([a in held for a in range(len(within))])
    index = np.array([held[a][0] if a in held else 0 for a in range(len(within))])
    crowds = truth[kind == CROWD]
    in_crowd = np.all((centers[:, None] >= crowds[:, :2]) & (centers[:, None] < crowds[:, 2:]), axis=2).any(1)
    return thresholds, (index, positive, within & ~positive & ~in_crowd)


def random_pictures(rng, canvas, *, count=25, truths=7, whole=False):
    """Truth, kinds and sizes of pictures that leave a part of their canvas, with objects that leave the pictures."""
    sizes = rng.integers(np.maximum(np.array(canvas) // 3, 1), np.array(canvas) + 1, (count, 2))
    side = np.exp(rng.uniform(np.log(3), np.log(max(canvas)), (count, truths, 2)))
    middle = rng.uniform(-0.1, 1.1, (count, truths, 2)) * sizes[:, None, ::-1]
    boxes = np.concatenate([middle - side / 2, middle + side / 2], axis=-1).astype(np.float32)
    kinds = rng.choice(3, (count, truths), p=[0.2, 0.7, 0.1])
    return np.round(boxes) if whole else boxes, kinds, sizes


def fields(matches):
    return matches.truth, matches.positive, matches.negative


def assert_same(matches, expected):
    for got, want in zip(fields(matches), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_grid_has_the_anchors_of_the_examples():
    anchors = GRID.anchors()
    assert len(anchors.boxes) == GRID.anchor_count == 20
    np.testing.assert_array_equal(anchors.boxes[np.array([5, 17])], [[4, 4, 20, 20], [8, -8, 40, 24]])


def test_three_candidates_a_level_golden():
    thresholds, matches = assign([A, B], topk=3)
    np.testing.assert_allclose(thresholds, [0.464704, 0.428716], atol=1e-6)
    assert holders(matches) == {5: 0, 6: 1}
    np.testing.assert_array_equal(matches.negative, ~matches.positive)


def test_nine_candidates_a_level_golden():
    thresholds, matches = assign([A, B])
    np.testing.assert_allclose(thresholds, [0.363467, 0.394349], atol=1e-6)
    assert holders(matches) == {1: 0, 4: 0, 5: 0, 6: 1, 10: 1, 17: 1}


def test_a_truth_can_lose_its_only_anchor_unless_it_takes_another():
    thresholds, matches = assign([C, D], topk=3)
    np.testing.assert_allclose(thresholds, [0.470577, 0.578244], atol=1e-6)
    assert holders(matches) == {5: 1}
    _, matches = assign([C, D], topk=3, at_least_one=True)
    assert holders(matches) == {1: 0, 5: 1}


@pytest.mark.parametrize(
    ("sides", "threshold", "positives"),
    [((4, 2), None, []), ((4, 2, 1), 0.004348, []), ((8, 4, 2, 1), 0.003582, [9])],
)
def test_an_object_inside_all_its_anchors_golden(sides, threshold, positives):
    strides = (8, 16, 32, 64)[: len(sides)]
    grid = ops.Grid(shapes=tuple((n, n) for n in sides), strides=strides, offset=0.5)
    thresholds, matches = assign([[10, 10, 14, 14]], grid=grid, size=(8 * sides[0],) * 2)
    assert threshold is None or abs(thresholds[0] - threshold) < 1e-6
    np.testing.assert_array_equal(np.flatnonzero(matches.positive), positives)


CANVASES = {
    "corners": ((96, 160), ops.Grid(shapes=((12, 20), (6, 10), (3, 5), (2, 3)), strides=(8, 16, 32, 64))),
    "centres": ((72, 56), ops.Grid(shapes=((18, 14), (9, 7), (5, 4)), strides=(4, 8, 16), scale=5.0, offset=0.5)),
    "a row": ((8, 320), ops.Grid(shapes=((1, 40), (1, 20), (1, 10), (1, 5)), strides=(8, 16, 32, 64))),
    "a column": ((320, 8), ops.Grid(shapes=((40, 1), (20, 1), (10, 1)), strides=(8, 16, 32), offset=0.5)),
}


@pytest.mark.parametrize("name", CANVASES)
def test_is_the_slow_one(name):
    canvas, grid = CANVASES[name]
    rng = np.random.default_rng(sum(canvas))
    for at_least_one in (False, True):
        positives = 0
        for whole in (False, True):
            pictures = random_pictures(rng, canvas, whole=whole)
            thresholds, matches = assign_all(grid, *pictures, at_least_one=at_least_one)
            for b, picture in enumerate(zip(*pictures, strict=True)):
                expected, outcome = slow_assign(grid, *picture, at_least_one=at_least_one)
                np.testing.assert_allclose(thresholds[b], expected, atol=1e-6)
                assert_same(jax.tree.map(lambda x, b=b: x[b], matches), outcome)
                positives += outcome[1].sum()
        assert positives > 200


def test_padding_changes_nothing_and_order_only_ties():
    canvas, grid = CANVASES["corners"]
    boxes, kinds, sizes = random_pictures(np.random.default_rng(1), canvas)
    thresholds, matches = assign_all(grid, boxes, kinds, sizes)
    junk = np.concatenate([boxes[:, :1], np.full_like(boxes[:, :1], np.nan)], axis=1)
    padded = np.concatenate([boxes, junk], axis=1), np.pad(kinds, ((0, 0), (0, 2))), sizes
    more, same = assign_all(grid, *padded)
    np.testing.assert_array_equal(more[:, : boxes.shape[1]], thresholds)
    assert_same(same, fields(matches))
    _, turned = assign_all(grid, boxes[:, ::-1], kinds[:, ::-1], sizes)
    last = boxes.shape[1] - 1
    expected = np.where(matches.positive, last - matches.truth, 0), matches.positive, matches.negative
    assert_same(turned, expected)
    _, twice = assign_all(grid, np.concatenate([boxes, boxes], 1), np.concatenate([kinds, kinds], 1), sizes)
    assert_same(twice, fields(matches))  # of equal truths the first holds


def test_no_truth_all_crowd_and_a_truth_as_large_as_the_picture():
    _, matches = assign([A, B], [0, 0])
    assert_same(matches, (np.zeros(20), np.zeros(20, bool), np.ones(20, bool)))
    _, matches = assign([[0, 0, 32, 32], B], [CROWD, 0])
    assert_same(matches, (np.zeros(20), np.zeros(20, bool), np.zeros(20, bool)))
    _, matches = assign([[0, 0, 32, 32], [0, 0, 32, 16]], [OBJECT, CROWD])
    assert set(holders(matches)) == {16, 17, 18, 19}
    np.testing.assert_array_equal(np.flatnonzero(matches.negative), range(8, 16))
    _, matches = assign([[0, 0, 32, 16], B], [CROWD, 0], size=(32, 16))
    np.testing.assert_array_equal(np.flatnonzero(matches.negative), [8, 9, 12, 13, 18])


def test_no_gradient_flows():
    def total(truth):
        thresholds = ops.thresholds(GRID, truth, size=jnp.array([32, 32]), valid=jnp.ones(1, bool))
        return thresholds.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(jnp.array([A])), np.zeros((1, 4)))


def test_refuses_misuse():
    with pytest.raises(ValueError, match="a stride for each level"):
        ops.Grid(shapes=((4, 4),), strides=(8, 16))
    one = {"size": jnp.array([32, 32]), "valid": jnp.ones(1, bool), "crowd": jnp.zeros(1, bool)}
    with pytest.raises(ValueError, match="at least one candidate"):
        ops.assign(GRID, jnp.array([A]), topk=0, **one)
    with pytest.raises(ValueError, match="at least one truth"):
        ops.thresholds(GRID, jnp.zeros((0, 4)), size=one["size"], valid=jnp.zeros(0, bool))
