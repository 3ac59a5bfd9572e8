"""Weights that a student starts from: a whole detector, and one of other classes."""

import jax
import numpy as np
import pytest
import tiny

from jaxkd.errors import WeightsError
from jaxkd.train import build
from jaxkd.weights.tree import flatten


@pytest.fixture(scope="module", params=[tiny.detector, tiny.retinanet], ids=["faster_rcnn", "retinanet"])
def start(request, tmp_path_factory):
    """A detector's config, and the folder of one with two classes."""
    config, folder = request.param(), tmp_path_factory.mktemp("start")
    params = build.detector(config, ("cat", "dog")).init(jax.random.key(7))
    build.save(folder, params, config=config, classes=("cat", "dog"), scores={})
    return config, folder


def test_equal_detectors_share_every_leaf(start):
    config, folder = start
    params, said = build.initial_params(build.detector(config, ("cat", "dog")), jax.random.key(0), str(folder))
    theirs = flatten(build.load(folder).params)
    assert all(np.array_equal(leaf, theirs[name]) for name, leaf in flatten(params).items())
    assert said == f"The student starts from {folder}: {len(theirs)} leaves."


@pytest.mark.parametrize("classes", [("cat", "dog", "cow"), ("dog", "cat")])
def test_only_what_depends_on_the_classes_starts_anew_and_is_named(start, classes):
    config, folder = start
    found = build.detector(config, classes)
    params, said = build.initial_params(found, jax.random.key(0), str(folder))
    theirs, fresh = flatten(build.load(folder).params), flatten(found.init(jax.random.key(0)))
    layers = ("logits",) if "tower_depth" in config else ("logits", "deltas")  # RetinaNet's boxes are for any class
    anew = [f"head/{layer}/{leaf}" for layer in layers for leaf in ("kernel", "bias")]
    for name, leaf in flatten(params).items():
        np.testing.assert_array_equal(leaf, (fresh if name in anew else theirs)[name], err_msg=name)
    assert said.startswith(f"The student starts from {folder}: {len(theirs) - len(anew)} leaves; ")
    assert all(name in said for name in anew) and said.endswith("are for other classes and start from random numbers.")


def test_another_width_is_refused_though_the_head_would_not_be(start):
    config, folder = start
    other = (tiny.retinanet if "tower_depth" in config else tiny.detector)(channels=24)
    with pytest.raises(WeightsError, match=r"neck/.* has the shape"):
        build.initial_params(build.detector(other, ("cat", "dog")), jax.random.key(0), str(folder))
