"""Query detectors as students: norms of batches, what no query sees, and what is refused."""

import detector_scene
import jax
import numpy as np
import pytest
import tiny
from jax import numpy as jnp

from jaxkd.detectors.base import predict_regions
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.nets.norm import running
from jaxkd.nets.query_decoder import cells_of
from jaxkd.nets.query_layer import first_offsets
from jaxkd.weights.tree import flatten

CLASSES = detector_scene.CLASSES


def batch():
    return jax.tree.map(jnp.asarray, detector_scene.batch_in((64, 96)))


@pytest.mark.parametrize(
    ("box", "cell"),
    [((0.5, 0.5, 0.05, 0.05), 660), ((0.31, 0.72, 0.1, 0.16), 1506), ((0.9, 0.1, 0.5, 0.5), 1609)],
)
def test_cells_of_given_boxes(box, cell):
    assert cells_of(jnp.asarray(box), [(32, 40), (16, 20), (8, 10)]) == cell


def test_offsets_start_on_rays():
    offsets = np.asarray(first_offsets(jax.random.key(0), (24,), heads=4, points=(2, 1))).reshape(4, 3, 2)
    np.testing.assert_allclose(offsets[:, 0], [[1, 0], [0, 1], [-1, 0], [0, -1]], atol=1e-6)
    np.testing.assert_allclose(offsets[:, 1], 2 * offsets[:, 0], atol=1e-6)
    np.testing.assert_allclose(offsets[:, 2], offsets[:, 0], atol=1e-6)


def test_norms_of_the_whole_net_take_the_statistics_of_the_batch():
    detector = build.detector(tiny.rt_detr(norm="batch"), CLASSES)
    params = detector.init(jax.random.key(0))

    @jax.jit
    def both(params):
        features, moments = detector.training_features(params, batch())
        regions, _ = detector.sample_regions(params, features, batch(), detector_scene.KEYS)
        predictions = predict_regions(detector, params, features, regions, batch())
        return running(params, moments, finite=jnp.asarray(True)), predictions.logits

    moved, logits = both(params)
    before, after = flatten(jax.device_get(params)), flatten(jax.device_get(moved))
    stored = [name for name in before if name.endswith(("/mean", "/var"))]
    assert {name.partition("/")[0] for name in stored} == {"backbone", "neck", "decoder"}
    assert all((before[name] != after[name]).any() for name in stored)
    assert np.isfinite(logits).all()


def test_denoising_changes_nothing_of_the_selected_queries():
    """They do not see denoising queries, so that training and use agree."""
    case = detector_scene.case("rt_detr")
    without = build.detector(tiny.rt_detr(denoising={"queries": 0}), CLASSES)
    assert "denoising" not in jax.eval_shape(without.init, jax.random.key(0))

    @jax.jit
    def logits(params):
        features = without.features(params, batch())
        regions, _ = without.sample_regions(params, features, batch(), detector_scene.KEYS)
        return predict_regions(without, params, features, regions, batch()).logits

    np.testing.assert_allclose(logits(case.params), case.seen["predictions"].logits, atol=2e-4)
    terms = jax.eval_shape(lambda params: without.losses(*said(without, params)), case.params)
    assert "class_0" in terms and not any("denoising" in name for name in terms)


def said(detector, params):
    """Predictions and regions of the scene."""
    features = detector.features(params, batch())
    regions, _ = detector.sample_regions(params, features, batch(), detector_scene.KEYS)
    return predict_regions(detector, params, features, regions, batch()), regions


@pytest.mark.parametrize(
    ("kind", "bucket", "words"),
    [
        (tiny.d_fine(), (72, 96), "canvas of 72x96 is no whole number of cells of 32 pixels"),
        (tiny.rt_detr(decoder={"queries": 5}), (64, 96), "max_objects is 6, and on a canvas of 64x96 .* has 5 queries"),
    ],
)
def test_what_a_student_cannot_be_trained_on_is_refused(kind, bucket, words):
    detector = build.detector(kind, CLASSES)
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(
            detector.training_features,
            jax.eval_shape(detector.init, jax.random.key(0)),
            detector_scene.batch_in(bucket),
        )
