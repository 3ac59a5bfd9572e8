"""Weights of objects that a teacher found: all 1 changes nothing, and a weight is that share of an object."""

import detector_scene
import jax
import numpy as np
import pytest

from jaxkd.types import Batch

every_kind = pytest.mark.parametrize("kind", [*filter(detector_scene.is_trained, detector_scene.RECIPES)])


def seen(kind, weights):
    case = detector_scene.case(kind)
    batch: Batch = detector_scene.batch_in((64, 96)).replace(weights=np.broadcast_to(np.float32(weights), (4, 6)))
    return jax.device_get(case.look(case.params, batch, detector_scene.KEYS))


@every_kind
def test_weights_of_one_change_nothing(kind):
    plain, weighted = detector_scene.case(kind).seen, seen(kind, 1.0)
    for name, term in plain["terms"].items():
        np.testing.assert_allclose(weighted["terms"][name].mean(), term.mean(), rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(weighted["regions"].weights, 1.0)


@every_kind
def test_a_weight_is_a_share_of_an_object(kind):
    plain, half = detector_scene.case(kind).seen, seen(kind, 0.5)
    for name, term in plain["terms"].items():
        if name.startswith("distilled"):  # what layers learn of the decoder's last one, not of objects
            continue
        if name.endswith("box") or name.startswith("box"):  # of objects alone
            np.testing.assert_allclose(half["terms"][name].total, 0.5 * term.total, rtol=1e-5, err_msg=name)
        assert half["terms"][name].count < term.count
    regions = half["regions"]
    np.testing.assert_array_equal(regions.weights, np.where(regions.positive, 0.5, 1.0))
    objects, whole = 0.5 * regions.positive.sum(1), (regions.valid & ~regions.positive).sum(1)
    truths = 0.5 * detector_scene.batch_in((64, 96)).valid.sum(1)  # each has one query
    name, counted = {
        "faster_rcnn": ("class", whole + objects),
        "retinanet": ("class", objects),
        "gfl": ("class", np.maximum(objects, 1.0)),
        "fcos": ("class", objects),
        "rt_detr": ("class_0", truths),
        "d_fine": ("class_0", truths),
    }[kind]
    assert half["terms"][name].count == counted.sum()
