"""A teacher with other classes: by hand, and that nothing is taught about what it does not know."""

import distill_scene as scenes
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import task_adaptive
from jaxkd.distill.classes import LACKING, columns, translated
from jaxkd.types import Predictions


def test_columns_go_by_name():
    assert columns(("cat", "dog", "cow"), ("dog", "horse", "cat")) == (2, 0, LACKING)


def predictions(logits, deltas):
    return Predictions(logits=jnp.log(jnp.array([[logits]], jnp.float32)), deltas=jnp.array([[deltas]], jnp.float32))


def test_what_both_know_is_divided_as_the_teacher_does():
    """The student gives 0.4 to what both know, cat and background; the teacher divides these 3 to 1."""
    student = predictions([0.1, 0.6, 0.3], [[1.0] * 4, [2.0] * 4])
    teacher = predictions([0.5, 0.3, 0.1, 0.1], [[7.0] * 4, [8.0] * 4, [9.0] * 4])
    found = translated(teacher, student, (1, LACKING), background=True)
    np.testing.assert_allclose(np.exp(found.logits[0, 0]), [0.3, 0.6, 0.1], rtol=1e-5)
    np.testing.assert_array_equal(found.deltas[0, 0], [[8.0] * 4, [2.0] * 4])


def test_classes_of_their_own_probability_are_copied():
    student, teacher = predictions([0.1, 0.6], [[1.0] * 4]), predictions([0.5, 0.2], [[7.0] * 4])
    found = translated(teacher, student, (LACKING, 0), background=False)
    np.testing.assert_allclose(np.exp(found.logits[0, 0]), [0.1, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(found.deltas[0, 0], [[1.0] * 4, [7.0] * 4])


def test_the_same_classes_in_another_order_change_nothing():
    scene = scenes.scene()
    order = (2, 0, 1)
    shuffled = Predictions(
        logits=scene.teacher.predictions.logits[..., jnp.array([*order, 3])],
        deltas=scene.teacher.predictions.deltas[:, :, jnp.array(order)],
    )
    back = tuple(order.index(place) for place in range(3))
    found = translated(shuffled, scene.student.predictions, back, background=True)
    wanted = scene.teacher.predictions
    np.testing.assert_allclose(jax.nn.softmax(found.logits), jax.nn.softmax(wanted.logits), atol=1e-6)
    np.testing.assert_array_equal(found.deltas, wanted.deltas)


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_nothing_is_taught_about_an_unknown_class(kind):
    """Class 1 is unknown to the teacher: no gradient reaches the student's boxes of it, or its share of a region."""
    scene = scenes.scene(kind=kind)
    config = scenes.changed(
        task_adaptive.Config(),
        feature={"weight": 0.0},
        classification={"form": "kl", "gate": "none"},
        box={"gate": "none"},
    )
    softmax = kind == "two_stage"

    def loss(own):
        theirs = scene.teacher.predictions
        teacher_predictions = translated(theirs, own, (0, LACKING, 2), background=softmax)
        views = scene.student.replace(predictions=own), scene.teacher.replace(predictions=teacher_predictions)
        outcome = scenes.ask(task_adaptive, config, {}, scenes.Scene(*views, scene.regions, scene.batch))
        return sum(term.mean() for term in outcome.terms.values())

    slope = jax.grad(loss)(scene.student.predictions)
    unknown = np.asarray(scene.regions.positive & (scene.regions.labels == 1))
    assert unknown.any()
    np.testing.assert_allclose(slope.deltas[unknown], 0.0, atol=1e-7)
    np.testing.assert_allclose(slope.logits[..., 1], 0.0, atol=1e-6)
    assert np.abs(slope.logits).max() > 1e-3 and np.abs(slope.deltas).max() > 1e-3
