"""NanoDet-g, which comes with the package, on COCO's pictures: what its authors' program finds, and its AP."""

import numpy as np
import pytest

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.loading import build, prepare, published
from jaxkd.paths import path_of
from jaxkd.predictor import Predictor
from jaxkd.train import evaluate, mesh
from jaxkd.weights.tree import flatten

PERSONS = [  # score and box on picture 000000005001.jpg, by the graph that the weights are from
    (0.570, (292.6, 56.0, 353.3, 141.8)),
    (0.568, (541.0, 101.4, 640.0, 480.0)),
    (0.568, (344.9, 91.5, 524.5, 461.7)),
]


@pytest.fixture(scope="module")
def nanodet():
    return build.load(path_of("assets:nanodet"))


def test_it_is_the_published_one(nanodet, shared):
    loaded, _ = published.load(shared / "weights" / "nanodet_g_coco" / "nanodet.json")
    theirs, ours = flatten(loaded.params), flatten(nanodet.params)
    assert theirs.keys() == ours.keys() and loaded.detector == nanodet.detector
    for name, leaf in theirs.items():
        np.testing.assert_allclose(ours[name], leaf, rtol=1e-3, atol=1e-7, err_msg=name)


def test_persons_are_found_where_the_original_finds_them(nanodet, shared):
    found = Predictor(nanodet)(shared / "data" / "minicoco" / "val2017" / "000000005001.jpg")
    for score, box in PERSONS:
        gap = np.abs(found.boxes[0] - np.asarray(box)).max(-1) + 1e3 * (found.labels[0] != 0)
        assert gap.min() < 0.5
        np.testing.assert_allclose(found.scores[0][gap.argmin()], score, atol=2e-3)


def test_ap_on_coco(nanodet, shared):
    root = shared / "data" / "minicoco"
    annotations = str(root / "annotations" / "instances_val2017.json")
    source = prepare.load_source(component("data.coco", images=str(root / "val2017"), annotations=annotations))
    loader_config = configs.build(component("data.loader", **nanodet.sizes))
    evaluation = evaluate.evaluate_source(
        nanodet.detector, nanodet.params, source, loader_config, mesh.make_mesh(1), batch=8
    )
    scores = evaluation.scores.summary
    np.testing.assert_allclose([scores["AP"], scores["AP50"], scores["AP75"]], [0.287, 0.442, 0.313], atol=0.004)
