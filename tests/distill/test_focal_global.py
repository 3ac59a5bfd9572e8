"""FGD: each term beside a slow form, attention and masks by hand, and relation blocks."""

import distill_scene as scenes
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import focal_global
from jaxkd.ops.masks import smallest_box_weights

CONFIG = focal_global.Config(foreground=1e-2, background=5e-3, attention=0.1, relation=1e-3)
SIZES = ((scenes.SIDE, scenes.SIDE), (100, 111))


@pytest.fixture(scope="module")
def scene():
    return scenes.scene(student=6, teacher=6)


@pytest.fixture(scope="module")
def params(scene):
    """Relation blocks that do something."""
    params = scenes.parameters(focal_global, CONFIG, scene)
    draws = iter(jax.random.split(jax.random.key(3), 100))
    return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(draws), leaf.shape), params)


def slow_attention(x, temperature):
    """Of one map [h w c]: its cells [h w] and channels [c]."""
    size = np.abs(x)
    of_cells, of_channels = np.exp(size.mean(-1) / temperature), np.exp(size.mean((0, 1)) / temperature)
    return of_cells / of_cells.sum() * of_cells.size, of_channels / of_channels.sum() * len(of_channels)


def slow_weights(boxes, shape, stride):
    objects, side = np.zeros(shape), scenes.SIDE // stride  # of the canvas, at which boxes are cut
    for x0, y0, x1, y1 in np.floor(np.asarray(boxes) / stride).astype(int):
        part = objects[y0:y1, x0:x1]
        np.maximum(part, 1 / max((min(x1, side) - x0) * (min(y1, side) - y0), 1), out=part)
    background = objects == 0
    return objects, background / max(background.sum(), 1)


def slow_relation(params, x):
    def dense(name, values):
        return values @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])

    cells = x.reshape(-1, x.shape[-1])
    chances = np.exp(dense("mask", cells)[:, 0])
    hidden = dense("first", (chances[:, None] * cells).sum(0) / chances.sum())
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
    hidden = np.maximum(hidden * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["bias"]), 0)
    return x + dense("second", hidden)


def test_every_term_as_a_loop_has_it(scene, params):
    found = focal_global.losses(CONFIG, params, scenes.inputs(scene)).terms
    assert set(found) == {f"{kind}_{stride}" for kind in ("feature", "attention", "relation") for stride in (4, 8)}
    for index, stride in enumerate((4, 8)):
        expected = dict.fromkeys(("feature", "attention", "relation"), 0.0)
        for picture, (height, width) in enumerate(SIZES):
            rows, columns = -(-height // stride), -(-width // stride)
            student, teacher = (
                np.asarray(view.features.neck[index], np.float64)[picture, :rows, :columns]
                for view in (scene.student, scene.teacher)
            )
            (s_cells, s_channels), (t_cells, t_channels) = (slow_attention(x, 0.5) for x in (student, teacher))
            boxes = np.asarray(scene.batch.boxes)[picture][np.asarray(scene.batch.valid)[picture]]
            objects, background = slow_weights(boxes, (rows, columns), stride)
            weights = (1e-2 * objects + 5e-3 * background) * t_cells
            expected["feature"] += (weights[..., None] * t_channels * (teacher - student) ** 2).sum() / 2
            expected["attention"] += 0.1 * np.abs(t_cells - s_cells).sum() / 2
            expected["attention"] += 0.1 * np.abs(t_channels - s_channels).sum() / 2
            of_student, of_teacher = (
                slow_relation(params[f"relation_{who}_{stride}"], x)
                for who, x in (("student", student), ("teacher", teacher))
            )
            expected["relation"] += 1e-3 * ((of_student - of_teacher) ** 2).sum() / 2
        for kind, value in expected.items():
            np.testing.assert_allclose(found[f"{kind}_{stride}"].mean(), value, rtol=1e-4, err_msg=kind)


def test_weights_by_hand():
    """Two boxes on a map of 4 x 4 cells of 8 pixels: one of 2 x 2 cells, and one cell of it; 12 cells of background."""
    boxes = jnp.asarray([[0.0, 0, 16, 16], [8, 8, 16, 16], [0, 0, 32, 32]])
    valid = jnp.asarray([True, True, False])
    objects, background = smallest_box_weights(boxes, valid=valid, inside=jnp.ones((4, 4)), stride=8)
    assert objects[:2, :2].tolist() == [[0.25, 0.25], [0.25, 1.0]] and float(objects.sum()) == 1.75
    np.testing.assert_allclose(background[2:], 1 / 12)
    assert not background[:2, :2].any()
    more, rest = smallest_box_weights(boxes[1:2], valid=valid[1:2], inside=jnp.ones((4, 4)), stride=8, touched=True)
    np.testing.assert_allclose(more[1:3, 1:3], 0.25)
    np.testing.assert_allclose(rest.sum(), 1.0, rtol=1e-6)
    objects, background = smallest_box_weights(boxes, valid=valid, inside=jnp.zeros((4, 4)), stride=8)
    assert not objects.any() and not background.any()


def test_attention_by_hand():
    """Magnitudes 0 and ln 3 in two cells of one channel, at temperature 1: chances 1/4 and 3/4, times two."""
    x = jnp.asarray([[[[0.0], [-np.log(3)]]]])
    found = focal_global.attention(x, jnp.ones((1, 1, 2)), 1.0)
    np.testing.assert_allclose(found.cells, [[[0.5, 1.5]]], rtol=1e-6)
    np.testing.assert_allclose(found.channels, [[1.0]])


def test_blocks_begin_as_the_identity_and_get_gradients(scene):
    fresh = scenes.parameters(focal_global, CONFIG, scene)
    x = scene.teacher.features.neck[0]
    np.testing.assert_array_equal(focal_global.relation(fresh["relation_teacher_4"], x, jnp.ones(x.shape[:3])), x)

    def total(params):
        return sum(term.mean() for term in focal_global.losses(CONFIG, params, scenes.inputs(scene)).terms.values())

    slopes = jax.grad(total)(fresh)
    assert all(np.abs(slopes[f"relation_{who}_4"]["second"]["kernel"]).max() > 0 for who in ("student", "teacher"))
