"""PKD: the Pearson correlation of channels, what it does not depend on, and widths that differ."""

import distill_scene as scenes
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import adapters, pearson
from jaxkd.errors import ConfigError
from jaxkd.types import Features, Reliability

CONFIG = pearson.Config(weight=3.0)  # without an adapter, as widths are equal
MASKS = {stride: np.zeros((2, scenes.SIDE // stride, scenes.SIDE // stride), bool) for stride in (4, 8)}
for stride, mask in MASKS.items():
    mask[0] = True
    mask[1, : -(-100 // stride), : -(-111 // stride)] = True


@pytest.fixture(scope="module")
def scene():
    return scenes.scene(student=3, teacher=3)


def with_neck(view, levels):
    return view.replace(features=Features(backbone=view.features.backbone, neck=tuple(levels)))


def losses(scene, config=CONFIG, reliability=None):
    params = scenes.parameters(pearson, config, scene)
    return pearson.losses(config, params, scenes.inputs(scene).replace(reliability=reliability))


def test_is_one_minus_the_correlation(scene):
    found, correlations, cells = losses(scene), 0.0, 0
    assert set(found.terms) == {"feature_4", "feature_8"}
    for index, (stride, mask) in enumerate(MASKS.items()):
        student, teacher = (
            np.asarray(view.features.neck[index], np.float64)[mask] for view in (scene.student, scene.teacher)
        )
        r = np.mean([np.corrcoef(student[:, c], teacher[:, c])[0, 1] for c in range(3)])
        n = mask.sum()
        np.testing.assert_allclose(found.terms[f"feature_{stride}"].mean(), 3 * (n - 1) / n * (1 - r), rtol=1e-4)
        correlations, cells = correlations + (n - 1) * r, cells + n
    np.testing.assert_allclose(found.metrics["correlation"].mean(), correlations / cells, rtol=1e-4)


def test_a_teacher_of_other_scale_and_offset_teaches_the_same(scene):
    other = with_neck(scene.teacher, [level * 5.0 - 2.0 for level in scene.teacher.features.neck])
    for name, term in losses(scene._replace(teacher=other)).terms.items():
        np.testing.assert_allclose(term.mean(), losses(scene).terms[name].mean(), rtol=1e-5)
    own = scene._replace(student=with_neck(scene.student, [2 * level + 1 for level in scene.teacher.features.neck]))
    for term in losses(own).terms.values():
        np.testing.assert_allclose(term.mean(), 0.0, atol=1e-6)


def test_constant_maps_teach_nothing_and_break_nothing(scene):
    def total(neck):
        return sum(
            term.mean() for term in losses(scene._replace(student=with_neck(scene.student, neck))).terms.values()
        )

    constant = [jnp.ones_like(level) for level in scene.student.features.neck]
    value, slopes = jax.value_and_grad(total)(constant)
    assert 0 < value < 3.01 and all(np.isfinite(slope).all() for slope in slopes)


def test_reliabilities_weigh_cells_and_leave_the_statistics(scene):
    maps = {4: jnp.zeros(MASKS[4].shape), 8: jnp.full(MASKS[8].shape, 0.5)}
    found = losses(scene, reliability=Reliability(regions=jnp.ones((2, 16)), maps=maps)).terms
    assert found["feature_4"].total == 0
    np.testing.assert_allclose(found["feature_8"].mean(), losses(scene).terms["feature_8"].mean() / 2, rtol=1e-5)


def test_other_widths_have_an_adapter():
    scene = scenes.scene(student=3, teacher=5)
    assert scenes.parameters(pearson, CONFIG, scene)["adapter_4"]["kernel"].shape == (1, 1, 3, 5)
    assert all(term.mean() > 0 for term in losses(scene).terms.values())
    with pytest.raises(ConfigError, match=r"adapter\.kind='identity' needs equal widths; the student has 3 channels"):
        losses(scene, pearson.Config(adapter=adapters.Adapter("identity")))
