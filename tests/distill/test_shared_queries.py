"""Answers of two detectors with queries about the same boxes, beside slow sums in NumPy."""

import dataclasses

import distill_scene as scenes
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import base, shared_queries
from jaxkd.nets.query_decoder import Layers, Outputs
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.edge_bins import Frame, bin_values, carried
from jaxkd.types import DELTAS, Predictions, TeacherView

COUNT, BINS, LEAST, TEMPERATURE = 16, 5, 0.3, 5.0
CONFIG = shared_queries.Config(least=LEAST)


def layers_of(number, *, seed, scale=4.0, denoising=2):
    """What so many layers say, with some denoising queries in front."""
    rng = np.random.default_rng(seed)

    def draw(*shape, low=-1.0, high=1.0):
        return jnp.asarray(rng.uniform(low, high, (2, COUNT + denoising, *shape)), jnp.float32)

    def boxes():
        return jnp.concatenate((draw(2, low=0.3, high=0.7), draw(2, low=0.1, high=0.3)), -1)

    values = bin_values(BINS - 1, up=jnp.asarray(0.5), scale=jnp.asarray(scale))
    return Layers(
        logits=tuple(draw(3, low=-4) for _ in range(number)),
        boxes=tuple(boxes() for _ in range(number)),
        edges=tuple(draw(4, BINS, high=2) for _ in range(number)),
        first=Outputs(draw(3), boxes()),
        values=jnp.broadcast_to(values, (2, BINS)),
        scale=jnp.full(2, scale),
    )


def inputs_of(student, teacher):
    """A moment at which both answer about the same boxes of a canvas of 128 x 128 pixels."""
    scene = scenes.scene(kind="dense")

    def saying(who, layers):
        corners = box_ops.corners_of(layers.boxes[-1][:, -COUNT:]) * scenes.SIDE
        deltas = box_ops.encode(corners, scene.regions.boxes)[:, :, None]
        predictions = Predictions(logits=layers.logits[-1][:, -COUNT:], deltas=deltas, layers=layers)
        return who.replace(traits=dataclasses.replace(who.traits, box_code=DELTAS), predictions=predictions)

    return scenes.inputs(scene._replace(student=saying(scene.student, student), teacher=saying(scene.teacher, teacher)))


def probabilities(logits, axis=-1):
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(axis, keepdims=True)


def entropy(wanted, said):
    return -(wanted * np.log(said) + (1 - wanted) * np.log(1 - said))


def slow_overlap(one, other):
    """Generalized IoU of two boxes (centre x, centre y, width, height)."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in np.asarray([one, other], np.float64)
    )
    shared = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return shared / union - (hull - union) / hull


def test_every_layer_as_a_loop_has_it():
    student, teacher = layers_of(2, seed=0, scale=8.0), layers_of(3, seed=1, denoising=0)
    inputs = inputs_of(student, teacher)
    losses = shared_queries.losses(CONFIG, {}, inputs)
    expected = dict.fromkeys(
        [f"{kind}_{layer}" for kind in ("class", "box", "giou", "distribution") for layer in (0, 1)], 0.0
    )
    total, shares = 0.0, scenes.SIDE / np.tile(np.asarray(inputs.batch.sizes)[:, ::-1], 2)  # of the pictures' sides
    for picture in range(2):
        for region in range(COUNT):
            wanted = 1 / (1 + np.exp(-np.asarray(teacher.logits[-1][picture, region], np.float64)))
            weight = wanted.max()
            if not inputs.regions.valid[picture, region] or weight < LEAST:
                continue
            total += weight
            box = np.asarray(teacher.boxes[-1][picture, region]) * shares[picture]
            frames = [
                Frame(one.first.boxes[picture, place], one.values[picture], one.scale[picture])
                for one, place in ((teacher, region), (student, region + 2))
            ]
            soft = jnp.asarray(probabilities(teacher.edges[-1][picture, region] / TEMPERATURE), jnp.float32)
            chances = np.asarray(carried(soft, *frames), np.float64)
            for layer in (0, 1):
                said = 1 / (1 + np.exp(-np.asarray(student.logits[layer][picture, region + 2], np.float64)))
                gap = (entropy(wanted, said) - entropy(wanted, wanted)).sum()
                expected[f"class_{layer}"] += weight * gap
                other = np.asarray(student.boxes[layer][picture, region + 2]) * shares[picture]
                expected[f"box_{layer}"] += 5 * weight * np.abs(box - other).sum()
                expected[f"giou_{layer}"] += 2 * weight * (1 - slow_overlap(box, other))
                edges = probabilities(student.edges[layer][picture, region + 2] / TEMPERATURE)
                apart = np.where(chances > 0, chances * np.log(np.maximum(chances, 1e-30) / edges), 0).sum(-1).mean()
                expected[f"distribution_{layer}"] += 1.5 * weight * TEMPERATURE**2 * apart
    assert set(losses.terms) == set(expected) and total > 0
    for name, value in expected.items():
        np.testing.assert_allclose(losses.terms[name].total, value, rtol=2e-4, err_msg=name)
        np.testing.assert_allclose(losses.terms[name].count, total, rtol=1e-5)
    assert 0 < losses.metrics["outermost"].mean() < 1


def test_the_last_layer_alone_is_silent_where_both_answer_alike():
    layers = layers_of(2, seed=4)
    losses = shared_queries.losses(dataclasses.replace(CONFIG, layers="last"), {}, inputs_of(layers, layers))
    assert set(losses.terms) == {"class_1", "box_1", "giou_1", "distribution_1"}
    for name, term in losses.terms.items():
        np.testing.assert_allclose(term.mean(), 0.0, atol=1e-4, err_msg=name)


def test_a_teacher_on_its_own_canvas_answers_alike_in_its_own_shares():
    """The student's picture fills 100 x 120 of its 128 x 128 pixels, the teacher's all of its 256 x 320."""
    own = layers_of(1, seed=5, denoising=0)
    factors = jnp.broadcast_to(jnp.array([256 / 100, 320 / 120]), (2, 2))
    view = TeacherView(jnp.zeros((2, 256, 320, 3)), jnp.full((2, 2), 256), factors)
    grown = jnp.array([128 / 120, 128 / 100] * 2)
    teacher = own._replace(first=own.first._replace(boxes=own.first.boxes * grown))
    inputs = inputs_of(own, own)
    inputs = inputs.replace(
        batch=inputs.batch.replace(teacher=view),
        teacher=inputs.teacher.replace(predictions=inputs.teacher.predictions.replace(layers=teacher)),
    )
    for name, term in shared_queries.losses(CONFIG, {}, inputs).terms.items():
        np.testing.assert_allclose(term.mean(), 0.0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("shared", "layers"), [("teacher", "all"), ("student", "last")])
def test_whose_boxes_are_shared(shared, layers):
    config = shared_queries.Config(shared=shared, layers=layers)
    assert shared_queries.region_sources(config) == (base.RegionSource(shared, "proposals"),)
    both = shared_queries.region_sources(dataclasses.replace(config, random=30))
    assert both == (base.RegionSource(shared, "proposals"), base.RegionSource(shared, "random", 30))


def test_reasons_of_terms_that_are_zero():
    alike = shared_queries.zero_reasons(CONFIG, {"weight": 0.5, "outermost": 0.1})
    assert set(alike) == {"class", "box", "giou", "distribution"} and set(alike.values()) == {"both answer alike"}
    assert "0.3 or more" in shared_queries.zero_reasons(CONFIG, {"weight": 0.0})["class"]
