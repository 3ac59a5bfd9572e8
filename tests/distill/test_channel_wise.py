"""CWD: distributions of channels over cells, beside a slow form; offsets, and padding."""

import distill_scene as scenes
import numpy as np
import pytest

from jaxkd.distill import channel_wise
from jaxkd.types import Features

SIZES = ((scenes.SIDE, scenes.SIDE), (100, 111))


@pytest.fixture(scope="module")
def scene():
    return scenes.scene(student=3, teacher=3)


def with_neck(view, levels):
    return view.replace(features=Features(backbone=view.features.backbone, neck=tuple(levels)))


def terms(scene, **fields):
    config = channel_wise.Config(**fields)  # without an adapter, as widths are equal
    return channel_wise.losses(config, scenes.parameters(channel_wise, config, scene), scenes.inputs(scene)).terms


def slow(student, teacher, temperature):
    """KL of two channels [n] over their cells."""
    p, q = (np.exp(values / temperature) / np.exp(values / temperature).sum() for values in (teacher, student))
    return (p * np.log(p / q)).sum()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_every_channel_as_a_loop_has_it(scene, temperature):
    found = terms(scene, temperature=temperature, weight=2.0)
    assert set(found) == {"feature_4", "feature_8"}
    for index, stride in enumerate((4, 8)):
        total = 0.0
        for picture, (height, width) in enumerate(SIZES):
            rows, columns = -(-height // stride), -(-width // stride)
            student, teacher = (
                np.asarray(view.features.neck[index], np.float64)[picture, :rows, :columns].reshape(-1, 3)
                for view in (scene.student, scene.teacher)
            )
            total += np.mean([slow(student[:, c], teacher[:, c], temperature) for c in range(3)])
        np.testing.assert_allclose(found[f"feature_{stride}"].mean(), 2 * temperature**2 * total / 2, rtol=2e-4)


def test_two_cells_by_hand():
    """Teacher (0, ln 3) and student (0, 0): 1/4 ln (1/2) + 3/4 ln (3/2) = 0.130812."""
    np.testing.assert_allclose(slow(np.zeros(2), np.array([0, np.log(3)]), 1.0), 0.130812, atol=1e-6)


def test_an_offset_of_a_channel_does_not_matter(scene):
    shifted = with_neck(scene.student, [level + 7.0 for level in scene.student.features.neck])
    for name, term in terms(scene._replace(student=shifted)).items():
        np.testing.assert_allclose(term.mean(), terms(scene)[name].mean(), rtol=1e-3)
    own = scene._replace(student=with_neck(scene.student, [level - 3 for level in scene.teacher.features.neck]))
    for term in terms(own).values():
        np.testing.assert_allclose(term.mean(), 0.0, atol=1e-4)


def test_padding_does_not_count(scene):
    strange = []
    for level, stride in zip(scene.student.features.neck, (4, 8), strict=True):
        strange.append(level.at[1, -(-100 // stride) :].set(1e4))
    for name, term in terms(scene._replace(student=with_neck(scene.student, strange))).items():
        np.testing.assert_array_equal(term.total, terms(scene)[name].total)
