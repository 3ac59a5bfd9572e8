"""Losses of query detectors beside slow forms in NumPy, with examples by hand, padding, weights and crowds."""

import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy.optimize import linear_sum_assignment

from jaxkd.detectors import edge_query_losses, query_losses
from jaxkd.detectors.query_losses import Denoised, Pairs, Started, Truth
from jaxkd.nets.query_decoder import Layers, Outputs
from jaxkd.ops.edge_bins import bin_values, moved

PICTURES, QUERIES, OBJECTS, CLASSES, LAYERS, LAST = 2, 6, 3, 2, 3, 8
GROUPS = 2
SCALE = np.float32(4.0)
VALUES = np.asarray(bin_values(LAST, up=jnp.asarray(0.5), scale=jnp.asarray(SCALE)))


def scene(*, edges=False, denoised=True, seed=0):
    """Layers of random outputs for two pictures of three and one objects, and what they started from."""
    draw = np.random.default_rng(seed)
    count = GROUPS * 2 * OBJECTS if denoised else 0
    every = count + QUERIES

    def outputs(queries):
        boxes = np.concatenate(
            (draw.uniform(0.3, 0.7, (PICTURES, queries, 2)), draw.uniform(0.1, 0.4, (PICTURES, queries, 2))), -1
        )
        return Outputs(draw.normal(size=(PICTURES, queries, CLASSES)).astype(np.float32), boxes.astype(np.float32))

    said, more = [outputs(every) for _ in range(LAYERS)], {}
    boxes = tuple(one.boxes for one in said)
    if edges:
        first = outputs(every)
        bins = tuple(draw.normal(size=(PICTURES, every, 4, LAST + 1)).astype(np.float32) for _ in range(LAYERS))
        boxes = tuple(shifted(first.boxes, softmax(one) @ VALUES) for one in bins)
        more = {
            "edges": bins,
            "first": first,
            "values": np.stack([VALUES] * PICTURES),
            "scale": np.full(PICTURES, SCALE),
        }
    valid = np.array([[True] * 3, [True, False, False]])
    truth = Truth(
        np.where(valid[..., None], outputs(OBJECTS).boxes, 0.0).astype(np.float32),
        np.where(valid, draw.integers(0, CLASSES, valid.shape), 0),
        valid,
        np.zeros_like(valid),
        valid.astype(np.float32),
    )
    slots = np.tile(np.stack((np.arange(OBJECTS), np.full(OBJECTS, -1))), (GROUPS, 1)).reshape(-1)
    there = np.tile(valid[:, None], (1, GROUPS * 2, 1)).reshape(PICTURES, -1)
    noise = Denoised(np.where(there, slots, -1), there) if denoised else None
    layers = Layers(tuple(one.logits for one in said), boxes, **more)
    content = np.zeros((PICTURES, every, 1), np.float32)
    return layers, Started(content, np.zeros((PICTURES, every, 4), np.float32), None, outputs(QUERIES), truth, noise)


def shifted(boxes, shifts):
    """The boxes with their edges moved, as the layers say them."""
    return np.asarray(moved(jnp.asarray(boxes), jnp.asarray(shifts), scale=jnp.asarray(SCALE)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def corners(box):
    x, y, w, h = box
    w, h = max(w, 0), max(h, 0)
    return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def overlap(a, b):
    """IoU and generalized IoU of two boxes."""
    a, b = corners(a), corners(b)
    shared = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    union = area(a) + area(b) - shared
    hull = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    return shared / union, shared / union - (hull - union) / hull


def slow_matching(logits, boxes, truth, labels):
    """The truth of each query, by SciPy."""
    cost = np.zeros((len(boxes), len(truth)))
    for i, (z, box) in enumerate(zip(logits, boxes, strict=True)):
        for j, (wanted, label) in enumerate(zip(truth, labels, strict=True)):
            p = 1 / (1 + np.exp(-z[label]))
            focal = 0.25 * (1 - p) ** 2 * -np.log(p + 1e-8) - 0.75 * p**2 * -np.log(1 - p + 1e-8)
            cost[i, j] = 2 * focal + 5 * np.abs(box - wanted).sum() - 2 * overlap(box, wanted)[1]
    out = np.full(len(boxes), -1)
    rows, columns = linear_sum_assignment(cost)
    out[rows] = columns
    return out


def slow_class(logits, boxes, index, truth, labels, valid=None):
    total = 0.0
    for i, (z, box) in enumerate(zip(logits, boxes, strict=True)):
        for c in range(CLASSES):
            p, matched = 1 / (1 + np.exp(-z[c])), index[i] >= 0 and labels[index[i]] == c
            target = overlap(box, truth[index[i]])[0] if matched else 0.0
            weight = target if matched else 0.75 * p**2
            if index[i] >= 0 or valid is None or valid[i]:
                total -= weight * (target * np.log(p) + (1 - target) * np.log(1 - p))
    return total


def slow_boxes(boxes, index, truth):
    pairs = [(box, truth[j]) for box, j in zip(boxes, index, strict=True) if j >= 0]
    return sum(np.abs(a - b).sum() for a, b in pairs), sum(1 - overlap(a, b)[1] for a, b in pairs)


def pictures(truth):
    """Boxes and labels of each picture's objects."""
    return [(truth.boxes[b][truth.valid[b]], truth.labels[b][truth.valid[b]]) for b in range(PICTURES)]


def slow_terms(stages, started, boxes_by=None):
    """Sums of class, distance and overlap of each stage over the pictures, and the matchings."""
    sums, indices = {}, {}
    for name, said in stages.items():
        total = np.zeros(3)
        for b, (truth, labels) in enumerate(pictures(started.truth)):
            index = indices[name, b] = slow_matching(said.logits[b], said.boxes[b], truth, labels)
            by = index if boxes_by is None else boxes_by[b]
            total[0] += slow_class(said.logits[b], said.boxes[b], index, truth, labels)
            total[1:] += slow_boxes(said.boxes[b], by, truth)
        sums[name] = total
    return sums, indices


def selected_of(layers, count):
    return {
        str(i): Outputs(z[:, count:], b[:, count:])
        for i, (z, b) in enumerate(zip(layers.logits, layers.boxes, strict=True))
    }


def assert_terms(terms, name, sums, counts):
    for kind, total, weight, count in zip(("class", "box", "giou"), sums, (1, 5, 2), counts, strict=True):
        term = terms[f"{kind}_{name}"]
        np.testing.assert_allclose(term.total, weight * total, rtol=2e-4, err_msg=f"{kind}_{name}")
        assert term.count == count, f"{kind}_{name}"


LOSSES = jax.jit(query_losses.set_losses, static_argnames=("loss", "classes"))
EDGE_LOSSES = jax.jit(edge_query_losses.edge_set_losses, static_argnames=("loss", "classes"))


def of_rt_detr(layers, started):
    return LOSSES(layers, started, loss=query_losses.Loss(), classes=CLASSES)


def of_d_fine(layers, started):
    return EDGE_LOSSES(layers, started, loss=edge_query_losses.Loss(), classes=CLASSES)


def test_every_layer_is_the_slow_form():
    layers, started = scene()
    terms, count = of_rt_detr(layers, started), started.denoised.truth.shape[1]
    sums, _ = slow_terms(selected_of(layers, count) | {"encoder": started.selected}, started)
    for name, total in sums.items():
        assert_terms(terms, name, total, (4, 4, 4))
    noise = np.zeros(3)
    for z, boxes in zip(layers.logits, layers.boxes, strict=True):
        for b, (truth, labels) in enumerate(pictures(started.truth)):
            index, there = started.denoised.truth[b], started.denoised.valid[b]
            noise[0] += slow_class(z[b, :count], boxes[b, :count], index, truth, labels, there)
            noise[1:] += slow_boxes(boxes[b, :count], index, truth)
    assert_terms(terms, "denoising", noise, (8, 8, 8))  # two groups
    assert set(terms) == {f"{kind}_{name}" for kind in ("class", "box", "giou") for name in (*sums, "denoising")}


def voted(indices, names, b):
    """The most voted truth of each query."""
    votes = np.zeros((QUERIES, OBJECTS))
    for name in names:
        for i, j in enumerate(indices[name, b]):
            votes[i, j] += j >= 0
    return np.where(votes.max(-1) > 0, votes.argmax(-1), -1)


def slow_edges(bins, start, boxes, index, truth):
    """FGL of one layer and picture."""
    total = 0.0
    for i, j in enumerate(index):
        if j < 0:
            continue
        (cx, cy, w, h), (x0, y0, x1, y1) = start[i], corners(truth[j])
        s = SCALE
        shifts = [(cx - x0) / (w / s), (cy - y0) / (h / s), (x1 - cx) / (w / s), (y1 - cy) / (h / s)]
        for edge, d in enumerate(np.clip(np.array(shifts) - s / 2, VALUES[0], VALUES[-1])):
            m = max(place for place in range(LAST) if VALUES[place] <= d)
            upper = (d - VALUES[m]) / (VALUES[m + 1] - VALUES[m])
            chances = np.log(softmax(bins[i, edge]))
            total -= overlap(boxes[i], truth[j])[0] * ((1 - upper) * chances[m] + upper * chances[m + 1])
    return total


def slow_learning(layer, last, boxes, index, truth, logits):
    """The sums of what a layer learns of the last one, over queries with a truth and over others, means over edges."""
    sums = [0.0, 0.0]
    for i, j in enumerate(index):
        p, q = softmax(last[i] / 5), softmax(layer[i] / 5)
        loss = (25 * (p * (np.log(p) - np.log(q))).sum(-1)).mean()
        weight = overlap(boxes[i], truth[j])[0] if j >= 0 else (1 / (1 + np.exp(-logits[i]))).max()
        sums[0 if j >= 0 else 1] += weight * loss
    return sums


def test_every_layer_of_d_fine_is_the_slow_form():
    layers, started = scene(edges=True, denoised=False)
    terms = of_d_fine(layers, started)
    stages = selected_of(layers, 0) | {"first": layers.first, "encoder": started.selected}
    _, indices = slow_terms(stages, started)
    union = [voted(indices, stages, b) for b in range(PICTURES)]
    size = sum((index >= 0).sum() for index in union)
    assert size > 4  # more than there are objects
    sums, _ = slow_terms(stages, started, union)
    for name, total in sums.items():
        assert_terms(terms, name, total, (4, size, size))
    for layer in range(LAYERS):
        total, learned = 0.0, np.zeros(2)
        for b, (truth, _) in enumerate(pictures(started.truth)):
            bins, boxes, index = layers.edges[layer][b], layers.boxes[layer][b], union[b]
            total += slow_edges(bins, layers.first.boxes[b], boxes, index, truth)
            roots = np.sqrt([(index >= 0).sum(), (index < 0).sum()])
            found = slow_learning(bins, layers.edges[-1][b], boxes, index, truth, layers.logits[-1][b])
            learned += roots / roots.sum() * found
        np.testing.assert_allclose(terms[f"edges_{layer}"].total, 0.15 * total, rtol=2e-4)
        assert terms[f"edges_{layer}"].count == size
        if layer < LAYERS - 1:
            for name, value, count in zip(("", "_others"), learned, (size, 12 - size), strict=True):
                term = terms[f"distilled{name}_{layer}"]
                np.testing.assert_allclose(term.total, 1.5 * value, rtol=2e-4)
                assert term.count == count
    assert f"distilled_{LAYERS - 1}" not in terms


def test_edges_by_hand():
    """A query with a truth and one without, as in the paper's terms."""
    values = np.asarray(bin_values(4, up=jnp.asarray(0.5), scale=jnp.asarray(4.0)))
    bins = np.zeros((2, 1, 2, 4, 5), np.float32)
    bins[0, 0, 0, :, 2] = math.log(3)
    bins[1, 0, 0, :, 3], bins[1, 0, 1, :, 1] = 5 * math.log(2), 5 * math.log(3)
    start = np.array([[[0.5, 0.5, 0.4, 0.2]] * 2], np.float32)
    logits = np.array([[[0.0], [math.log(3)]]], np.float32)
    first = Outputs(logits, start)
    layers = Layers((logits,) * 2, (start,) * 2, tuple(bins), first, values[None], np.full(1, 4, np.float32))
    truth = np.array([[[0.485, 0.515, 0.47, 0.27], [0] * 4]], np.float32)
    pairs = Pairs(np.array([[True, False]]), truth, np.array([[0, 1]]), np.array([[1.0, 0.0]], np.float32))
    pairs = jax.tree.map(jnp.asarray, pairs)
    edges = edge_query_losses._edges(layers)
    np.testing.assert_allclose(edge_query_losses.edge_losses(edges, layers, pairs)[0], 2.863820, atol=1e-5)
    shares = edge_query_losses.shares_of(pairs)
    learned = edge_query_losses.distilled(edges, pairs, shares, edge_query_losses.Loss())
    np.testing.assert_allclose(learned.matched[0] + learned.others[0], 1.733113, atol=1e-5)
    three = jax.tree.map(lambda leaf: leaf[:, [0, 1, 1]], pairs)
    np.testing.assert_allclose([part[0] for part in edge_query_losses.shares_of(three)], [0.4142, 0.5858], atol=1e-4)


@pytest.mark.parametrize("edges", [False, True])
def test_weights_multiply_objects_and_padding_changes_nothing(edges):
    layers, started = scene(edges=edges)
    losses, truth = of_d_fine if edges else of_rt_detr, started.truth
    whole = losses(layers, started)
    junk = truth._replace(
        boxes=np.where(truth.valid[..., None], truth.boxes, 7).astype(np.float32),
        labels=np.where(truth.valid, truth.labels, 999),
    )
    for one, other in zip(whole.values(), losses(layers, started._replace(truth=junk)).values(), strict=True):
        np.testing.assert_allclose(one.total, other.total, rtol=1e-6)
    half = truth._replace(weights=truth.weights / 2)
    halved = losses(layers, started._replace(truth=half))
    for name, term in whole.items():
        if name.startswith(("box", "giou", "edges")):
            np.testing.assert_allclose(halved[name].total, term.total / 2, rtol=1e-5)
            np.testing.assert_allclose(halved[name].count, term.count / 2)


@pytest.mark.parametrize("edges", [False, True])
def test_no_truth_and_crowds(edges):
    """Without an object only classes teach, and inside of a crowd nothing does."""
    layers, started = scene(edges=edges)
    losses, nothing = of_d_fine if edges else of_rt_detr, started.truth
    there = np.zeros_like(started.denoised.truth)
    nothing = nothing._replace(valid=np.zeros_like(nothing.valid), weights=np.zeros_like(nothing.weights))
    empty = started._replace(truth=nothing, denoised=Denoised(there - 1, there.astype(bool)))
    terms = losses(layers, empty)
    assert all(np.isfinite(term.mean()) for term in terms.values())
    assert all(term.total == 0 for name, term in terms.items() if name.startswith(("box", "giou", "edges")))
    assert terms["class_0"].total > 0 and terms["class_0"].mean() == 0 and terms["class_denoising"].total == 0
    crowd = np.zeros_like(nothing.crowd)
    crowd[:, 0] = True
    boxes = nothing.boxes.copy()
    boxes[:, 0] = [0.5, 0.5, 3, 3]
    crowded = losses(layers, empty._replace(truth=nothing._replace(crowd=crowd, boxes=boxes)))
    assert all(term.total == 0 for name, term in crowded.items() if name.startswith("class"))


@pytest.mark.parametrize("edges", [False, True])
def test_gradients_are_finite_and_the_last_layer_does_not_learn_of_itself(edges):
    layers, started = scene(edges=edges)
    losses = of_d_fine if edges else of_rt_detr

    def loss(layers):
        return sum(term.mean() for term in losses(layers, started).values())

    gradient = jax.grad(loss)(jax.tree.map(jnp.asarray, layers))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.asarray(gradient.logits[0]).any() and np.asarray(gradient.boxes[0]).any()
    if edges:
        learned = jax.grad(
            lambda layers: sum(term.mean() for name, term in losses(layers, started).items() if "distilled" in name)
        )(jax.tree.map(jnp.asarray, layers))
        assert np.asarray(learned.edges[0]).any() and not np.asarray(learned.edges[-1]).any()
        assert not np.asarray(learned.logits[-1]).any()
