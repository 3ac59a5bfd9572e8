"""Plain feature imitation: against a slow version, gradients, levels and adapters, and what it refuses."""

import functools

import distill_scene as scenes
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import adapters, base, mimic
from jaxkd.errors import ConfigError
from jaxkd.types import Features

IDENTITY = adapters.Adapter("identity")


@functools.partial(jax.jit, static_argnums=0)
def compiled(config, scene):
    return scenes.ask(mimic, config, scenes.parameters(mimic, config, scene), scene).terms


def terms(scene, **fields):
    return compiled(mimic.Config(**fields), scene)


def with_neck(view, levels):
    return view.replace(features=Features(backbone=view.features.backbone, neck=tuple(levels)))


@pytest.fixture(scope="module")
def equal_widths():
    return scenes.scene(student=3, teacher=3)


def test_is_the_slow_one_inside_the_pictures(equal_widths):
    got = terms(equal_widths, adapter=IDENTITY, weight=0.5)
    assert list(got) == ["feature_4", "feature_8"]
    for index, stride in enumerate((4, 8)):
        gap = equal_widths.student.features.neck[index] - equal_widths.teacher.features.neck[index]
        total, cells = 0.0, 0
        for picture, (height, width) in zip(np.array(gap), np.array(equal_widths.batch.sizes), strict=True):
            inside = picture[: -(-height // stride), : -(-width // stride)]
            total, cells = total + 0.5 * (inside**2).sum(), cells + inside[..., 0].size
        np.testing.assert_allclose(got[f"feature_{stride}"].mean(), 0.5 / 2 * total / cells, rtol=1e-5)


def test_is_zero_for_the_teacher_itself(equal_widths):
    own = equal_widths._replace(student=with_neck(equal_widths.student, equal_widths.teacher.features.neck))
    assert all(term.total == 0 and term.count > 0 for term in terms(own, adapter=IDENTITY).values())


def test_gradient_points_to_the_teacher_and_stays_inside(equal_widths):
    def total(neck):
        scene = equal_widths._replace(student=with_neck(equal_widths.student, neck))
        return sum(term.mean() for term in terms(scene, adapter=IDENTITY).values())

    mine, theirs = equal_widths.student.features.neck, equal_widths.teacher.features.neck
    for slope, a, b in zip(jax.grad(total)(mine), mine, theirs, strict=True):
        np.testing.assert_array_equal(np.sign(slope[0]), np.sign(a - b)[0])
        assert not np.any(slope[1, -1]) and not np.any(slope[1, :, -1])  # the second picture is smaller


def test_weight_scales_and_levels_limit(equal_widths):
    once = terms(equal_widths, adapter=IDENTITY, weight=1.0)
    finest = terms(equal_widths, adapter=IDENTITY, weight=3.0, levels=1)
    assert list(finest) == ["feature_4"]
    np.testing.assert_allclose(finest["feature_4"].mean(), 3 * 2 * once["feature_4"].mean(), rtol=1e-6)


def test_backbone_maps_have_their_own_adapters():
    scene = scenes.scene()
    params = jax.eval_shape(lambda: scenes.parameters(mimic, mimic.Config(source="backbone"), scene))
    assert {name: adapter["kernel"].shape[2:] for name, adapter in params.items()} == {
        "adapter_4": (4, 6),
        "adapter_8": (5, 7),
    }
    scene = scenes.scene(student=3, teacher=3)
    neck, backbone = (terms(scene, source=source, adapter=IDENTITY) for source in ("neck", "backbone"))
    assert all(neck[name].total != backbone[name].total for name in neck)


def test_pairs_levels_by_stride():
    mine = scenes.traits(3, strides=(8, 16, 32), channels=(1, 2, 3))
    theirs = scenes.traits(3, strides=(4, 8, 16), channels=(4, 5, 6))
    pairs = base.level_pairs(mine, theirs, source="neck")
    assert pairs == (base.LevelPair(8, 0, 1, 1, 5), base.LevelPair(16, 1, 2, 2, 6))
    assert base.level_pairs(mine, theirs, source="neck", limit=1) == pairs[:1]


def test_refuses_detectors_that_do_not_fit():
    config, key = mimic.Config(adapter=IDENTITY), jax.random.key(0)
    with pytest.raises(ConfigError, match="equal widths"):
        mimic.init(config, key, scenes.traits(3), scenes.traits(5))
    with pytest.raises(ConfigError, match="strides"):
        mimic.init(config, key, scenes.traits(3), scenes.traits(3, strides=(16, 32)))


def test_half_precision_features_are_compared_in_float32():
    scene = scenes.scene(student=3, teacher=3)
    half = with_neck(scene.student, [level.astype(jnp.bfloat16) for level in scene.student.features.neck])
    full = terms(scene, adapter=IDENTITY)
    for name, term in terms(scene._replace(student=half), adapter=IDENTITY).items():
        assert term.total.dtype == jnp.float32
        np.testing.assert_allclose(term.mean(), full[name].mean(), rtol=1e-2)
