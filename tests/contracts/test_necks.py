"""What every neck of jaxkd.nets promises; a new one is found by listing the folder.

That padding changes nothing inside a picture is in `nets/test_padding.py`.
"""

import dataclasses
import importlib
import pkgutil

import jax
import pytest
from jax import numpy as jnp

from jaxkd import config as configs
from jaxkd import nets
from jaxkd.errors import ConfigError
from jaxkd.loading import build

BACKBONE = {4: 6, 8: 8, 16: 10, 32: 12}  # stride and width of each level
MODULES = {
    found.name: importlib.import_module(f"jaxkd.nets.{found.name}") for found in pkgutil.iter_modules(nets.__path__)
}
NECKS = sorted(
    name for name, module in MODULES.items() if hasattr(module, "strides") and not hasattr(module, "stage_of")
)


@pytest.fixture(params=NECKS)
def name(request):
    return request.param


def fields(name, **more):
    """Small numbers for those fields that the neck has."""
    known = {field.name for field in dataclasses.fields(MODULES[name].Config)}
    return {key: value for key, value in ({"channels": 16, "groups": 4} | more).items() if key in known}


def shapes(config, name, *, high, wide, dtype):
    """Shapes of the parameters, and of the levels of one picture."""
    levels = tuple(
        jax.ShapeDtypeStruct((1, -(-high // stride), -(-wide // stride), channels), jnp.float32)
        for stride, channels in BACKBONE.items()
    )
    neck = MODULES[name].build(
        config, backbone_strides=tuple(BACKBONE), backbone_channels=tuple(BACKBONE.values()), dtype=dtype
    )
    extents = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = jax.eval_shape(neck.init, jax.random.key(0), levels, extents)
    return params, jax.eval_shape(neck.apply, params, levels, extents)


@pytest.mark.parametrize(("first", "dtype"), [(0, "float32"), (1, "bfloat16"), (2, "float32")])
def test_levels_are_as_strides_and_channels_say(name, first, dtype):
    module = MODULES[name]
    config = module.Config(**fields(name, first=first))
    strides, channels = module.strides(config, tuple(BACKBONE)), module.channels(config, tuple(BACKBONE.values()))
    params, levels = shapes(config, name, high=75, wide=50, dtype=dtype)
    assert strides == tuple(sorted(set(strides))) and strides[0] == (4, 8, 16)[first]
    expected = [(1, -(-75 // step), -(-50 // step), wide) for step, wide in zip(strides, channels, strict=True)]
    assert [level.shape for level in levels] == expected
    assert {str(level.dtype) for level in levels} == {dtype}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}


def test_a_first_level_that_the_backbone_lacks_is_refused(name):
    config = MODULES[name].Config(**fields(name, first=4))
    for function, numbers in (("strides", tuple(BACKBONE)), ("channels", tuple(BACKBONE.values()))):
        with pytest.raises(ConfigError, match=r"neck\.first=4 leaves none of the backbone's 4 levels"):
            getattr(MODULES[name], function)(config, numbers)


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
def test_a_detector_takes_it(name, kind):
    backbone = configs.component("nets.resnet", depth=10, width=8)
    neck = configs.component(f"nets.{name}", **fields(name, first=1))
    sizes = tuple(4.0 * stride for stride in MODULES[name].strides(configs.build(neck), tuple(BACKBONE)))
    recipe = configs.component(f"detectors.{kind}", backbone=backbone, neck=neck, anchors={"sizes": sizes})
    detector = build.detector(recipe, ("one", "two"))
    traits = detector.traits
    assert traits.strides[0] == 8 and len(traits.channels) == len(traits.strides) == len(sizes)
    assert set(build.param_shapes(detector)) >= {"backbone", "neck", "head"}


def test_heads_want_levels_of_one_width(monkeypatch):
    monkeypatch.setattr(MODULES["fpn"], "channels", lambda config, channels: (8, 16, 16, 16, 16))
    with pytest.raises(ConfigError, match=r"levels are \(8, 16, 16, 16, 16\) wide.*want one width"):
        build.detector(configs.component("detectors.faster_rcnn"), ("one", "two"))
