"""The losses of FCOS with torchvision's conventions are torchvision's, from random weights and a few truths.

Two parts cannot differ here, and would elsewhere. torchvision's column of class 0, which no object has, counts as
background, and this detector has no such column; its logits in the random weights are near -50, where the loss is 0. A
batch is padded by torchvision to its largest picture, and each picture by this detector to its own multiple of 32;
these pictures share theirs. Areas of truths are 8 or more square pixels apart: torchvision compares them no finer.
"""

import jax
import numpy as np
import pytest
import torch_writer
import torchvision_peer as peer
import torchvision_reference as reference
from jax import numpy as jnp
from torchvision_losses import fcos_losses

from jaxkd.loading import published
from jaxkd.types import Batch

NAMES = ("cat", "dog", "cow", "hen")
NARROW = {"width": 16, "channels": 32}
SIZES = ((150, 171), (129, 192), (160, 165))  # height and width; all are padded to 160 x 192
BUCKET, TRUTHS = (224, 320), 6
TRUTH = (  # label and box of objects on three levels, within each other and beyond edges; none in the last picture
    ((1, 10, 12, 60, 70), (2, 40.5, 30, 150, 140), (3, 48, 40, 71, 66), (4, 2, 3, 168, 148), (1, 120, 90, 171, 150)),
    ((4, 30, 20, 121.3, 110), (2, 150, 2, 190, 31), (1, 60, 70, 69, 81), (3, -8, 2, 199, 127)),
    (),
)


def scene():
    """The pictures, and the truth of each: boxes (G, 4) and labels (G,) that count class 0."""
    draw = np.random.default_rng(5)
    images = [draw.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    rows = [np.array(truth, float).reshape(-1, 5) for truth in TRUTH]
    return images, [(row[:, 1:], row[:, 0].astype(np.int64)) for row in rows]


def batch_of(images, truths):
    """The batch on a larger canvas, with padded truths."""
    count = len(images)
    canvas, boxes = np.zeros((count, *BUCKET, 3), np.uint8), np.zeros((count, TRUTHS, 4), np.float32)
    labels, valid = np.zeros((count, TRUTHS), np.int32), np.zeros((count, TRUTHS), bool)
    for row, (image, (own, classes)) in enumerate(zip(images, truths, strict=True)):
        canvas[row, : image.shape[0], : image.shape[1]] = image
        boxes[row, : len(own)], labels[row, : len(own)], valid[row, : len(own)] = own, classes - 1, True
    return Batch(
        images=jnp.asarray(canvas),
        sizes=jnp.asarray([image.shape[:2] for image in images], jnp.int32),
        boxes=jnp.asarray(boxes),
        labels=jnp.asarray(labels),
        valid=jnp.asarray(valid),
        crowd=jnp.zeros((count, TRUTHS), bool),
        ids=jnp.arange(count),
        scales=jnp.ones((count, 2)),
        real=jnp.ones(count, bool),
    )


def assert_losses(state, path, batch, wanted):
    """The losses of a detector with these weights are those wanted, to 1e-4 of each."""
    torch_writer.save(path / "detector.pth", state)
    loaded, _ = published.load(path / "detector.pth", classes=NAMES)

    @jax.jit
    def losses(params):
        detector, keys = loaded.detector, jax.vmap(jax.random.key)(jnp.arange(len(SIZES)))
        features = detector.features(params, batch)
        regions, _ = detector.sample_regions(params, features, batch, keys)
        terms = detector.losses(detector.predict(params, features, regions.boxes, batch), regions)
        return {name: term.mean() for name, term in terms.items()}, regions.positive.sum(axis=1)

    found, positives = jax.device_get(losses(loaded.params))
    assert min(positives[:2]) > 10 and positives[2] == 0
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert value > 0.01
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


def test_losses_are_torchvisions(tmp_path):
    images, truths = scene()
    state = reference.random_state_dict("fcos", 18, 1, len(NAMES) + 1, 7, **NARROW)
    wanted = fcos_losses([reference.fcos(state, image) for image in images], truths)
    assert_losses(state, tmp_path, batch_of(images, truths), wanted)


def test_torchvision_itself_has_the_same_losses(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    pytest.importorskip("torchvision", reason="torchvision is not installed: nothing to compare with")
    images, truths = scene()
    state = reference.random_state_dict("fcos", 18, 1, len(NAMES) + 1, 7)
    model = peer.model_of("fcos", 18, 1)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, strict=True)
    wanted = peer.fcos_losses_of(model, images, truths)
    records = [reference.fcos(state, image) for image in images]
    for name, value in fcos_losses(records, truths).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, err_msg=name)
    assert_losses(state, tmp_path, batch_of(images, truths), wanted)
