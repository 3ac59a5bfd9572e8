"""Terms and gates of the regions, by hand-computed examples (Sun et al. 2020, arXiv 2006.13108)."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import gated
from jaxkd.ops import boxes as box_ops
from jaxkd.types import BoxCode

PROPOSAL, TRUTH, WEIGHTS = jnp.array([[0.0, 0, 10, 10]]), jnp.array([[2.0, 0, 12, 10]]), (10.0, 10.0, 5.0, 5.0)
CODE = BoxCode(weights=WEIGHTS)


def counted(rows, **options):
    """The class term of logits (student, teacher) with every region positive and every gate open."""
    student, teacher = (jnp.array(side) for side in zip(*rows, strict=True))
    every = jnp.ones(len(rows), bool)
    return gated.class_term(student, teacher, selected=every, gate=every, **options)


@pytest.mark.parametrize(
    ("form", "mean", "summed", "floor"),
    [
        ("bce", 0.457639257, 1.372917770, 0.398740507),
        ("kl", 0.032961997, 0.098885990, 0),
        ("ce", 0.254819557, 0.764458672, 0.221857561),
    ],
)
def test_example_class(form, mean, summed, floor):
    with jax.enable_x64(True):
        rows = [(np.array([1.0, 0, 0]), np.array([2.0, 0, 0]))]
        term, least = counted(rows, form=form)
        np.testing.assert_allclose(term.mean(), mean, atol=1e-9)
        np.testing.assert_allclose(least / term.count, floor, atol=1e-9)
        np.testing.assert_allclose(counted(rows, form=form, reduce="sum")[0].mean(), summed, atol=1e-9)


def test_example_class_temperature():
    with jax.enable_x64(True):
        rows = [(np.array([1.0, 0, 0]), np.array([2.0, 0, 0]))]
        term, _ = counted(rows, form="kl", reduce="sum", temperature=2.0)
        np.testing.assert_allclose(term.mean(), 0.123961991, atol=1e-9)


@pytest.mark.parametrize(("shift", "iou", "opened", "loss"), [(1.5, 0.904762, True, 0.885), (-0.5, 0.6, False, 0)])
def test_example_box(shift, iou, opened, loss):
    np.testing.assert_allclose(box_ops.encode(TRUTH, PROPOSAL, weights=WEIGHTS), [[2, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(box_ops.paired_iou(PROPOSAL, TRUTH), [0.666667], rtol=1e-5)
    student, teacher = jnp.array([[0.2, 0.4, 0, -0.1]]), jnp.array([[shift, 0, 0, 0]])
    refined = box_ops.decode(teacher, PROPOSAL, weights=WEIGHTS)
    np.testing.assert_allclose(box_ops.paired_iou(refined, TRUTH), [iou], rtol=1e-5)
    gate = gated.box_gate(student, teacher, PROPOSAL, TRUTH, code=CODE)
    assert bool(gate[0]) is opened
    one = jnp.ones(1, bool)
    np.testing.assert_allclose(
        gated.box_term(student, teacher, positive=one, valid=one, gate=gate).mean(), loss, rtol=1e-5
    )


def test_example_numerics():
    logits = jnp.array([40.0, 0, 0])
    np.testing.assert_allclose(gated.log_one_minus_softmax(logits)[0], -39.306853, rtol=1e-6)
    assert 1 - jax.nn.softmax(logits)[0] == 0
    assert np.all(np.isfinite(jax.jacobian(gated.log_one_minus_softmax)(logits)))
    term, _ = counted([(logits, -logits)])
    assert np.isfinite(term.total)


def test_gate_is_shut_to_a_teacher_that_repeats_the_proposal():
    assert not gated.box_gate(jnp.ones((1, 4)), jnp.zeros((1, 4)), PROPOSAL, TRUTH, code=CODE)[0]


def test_class_gates_golden():
    teacher = jnp.array([[3.0, 0, 0], [0, 3, 0], [1, 0, 0], [0, 1, 2]])
    student = jnp.array([[0.0, 0, 0], [0, 0, 0], [2, 0, 0], [0, 0, 9]])
    gate = functools.partial(gated.class_gate, student, teacher, jnp.array([0, 0, 0, 1]), background=2)
    np.testing.assert_array_equal(gate(kind="none"), [True] * 4)
    np.testing.assert_array_equal(gate(kind="teacher_correct"), [True, False, True, False])
    np.testing.assert_array_equal(gate(kind="teacher_better"), [True, False, False, True])


def test_box_gates_golden():
    deltas = jnp.array([[1.5, 0, 0, 0], [1.5, 0, 0, 0], [-0.5, 0, 0, 0], [-0.5, 0, 0, 0]])
    student = jnp.array([[0.5, 0, 0, 0], [2.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 0]])
    boxes, truth = (jnp.broadcast_to(one, (4, 4)) for one in (PROPOSAL, TRUTH))
    gate = functools.partial(gated.box_gate, student, deltas, boxes, truth, code=CODE)
    np.testing.assert_array_equal(gate(kind="teacher_vs_proposal"), [True, True, False, False])
    np.testing.assert_array_equal(gate(kind="teacher_vs_student"), [True, False, True, False])
    np.testing.assert_array_equal(gate(kind="both"), [True, False, False, False])
    np.testing.assert_array_equal(gate(kind="none"), [True] * 4)
    np.testing.assert_array_equal(gate(margin=0.3), [False] * 4)


def test_classes_that_do_not_exclude_each_other():
    student, teacher = jnp.array([[1.0, -2]]), jnp.array([[2.0, 0]])
    p, q = (1 / (1 + np.exp(-np.array(side, float))) for side in (student, teacher))
    bce = -(q * np.log(p) + (1 - q) * np.log(1 - p))
    floor = -(q * np.log(q) + (1 - q) * np.log(1 - q))
    for form, expected in (("bce", bce), ("ce", bce), ("kl", bce - floor)):
        term, _ = counted([(student[0], teacher[0])], form=form, softmax=False)
        np.testing.assert_allclose(term.mean(), expected.mean(), rtol=1e-5)
