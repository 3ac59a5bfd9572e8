"""Every field of task-adaptive regularisation does something of its own."""

import operator

import distill_scene as scenes
import numpy as np
import pytest
from jax import numpy as jnp
from task_adaptive_scene import BOXES, CLASSES, FEATURES, PLAIN, ask_all, choices, compiled, scene, switches, total

from jaxkd.config import nested
from jaxkd.distill import task_adaptive as tar

STARTS = {"feature": FEATURES, "classification": CLASSES, "box": BOXES}
TERM_SWITCHES = [name for name in switches() if name.partition(".")[0] in STARTS]


def changed(config, name, value):
    """The config with another value of a dotted field."""
    return scenes.changed(config, **nested({name: value}))


def test_every_switch_is_tested():
    assert len(TERM_SWITCHES) == 14
    assert set(switches()) - set(TERM_SWITCHES) == {"sharing.source", "sharing.stage", "adapter.kind", "adapter.init"}


@pytest.mark.parametrize("name", TERM_SWITCHES)
def test_each_choice_of_a_switch_gives_its_own_finite_value(name):
    start = STARTS[name.partition(".")[0]]
    configs = tuple(changed(start, name, choice) for choice in choices(name))
    values = [float(total(outcome)) for outcome in ask_all(configs, scene())]
    assert np.all(np.isfinite(values)) and np.all(np.array(values) > 0)
    assert len(set(values)) == len(values), values


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("feature", {"sigma_sq": 0.5, "levels": 1, "canonical_scale": 64.0, "canonical_level": 6}),
        ("classification", {"temperature": 2.0}),
        ("box", {"margin": 0.1, "smooth_l1_beta": 0.1}),
    ],
    ids=["features", "classes", "boxes"],
)
def test_each_number_matters(part, changes):
    start = STARTS[part]
    configs = [changed(start, f"{part}.{name}", value) for name, value in changes.items()]
    usual, *others = (float(total(outcome)) for outcome in ask_all((start, *configs), scene()))
    assert np.all(np.isfinite(others))
    assert usual not in others


def test_weights_scale_their_terms_and_zero_leaves_them_out():
    members = {
        "feature.weight": ["feature_4", "feature_8"],
        "classification.weight": ["class"],
        "box.weight": ["box"],
    }
    configs = [PLAIN]
    for weight in members:
        configs.append(changed(PLAIN, weight, 2 * operator.attrgetter(weight)(PLAIN)))
        configs.append(changed(PLAIN, weight, 0.0))
    usual, *others = (outcome.terms for outcome in ask_all(tuple(configs), scene()))
    for names, doubled, without in zip(members.values(), others[::2], others[1::2], strict=True):
        for name, term in usual.items():
            np.testing.assert_allclose(doubled[name].mean(), (1 + (name in names)) * term.mean(), rtol=1e-6)
        assert set(without) == set(usual) - set(names)


def test_each_adapter_runs_between_widths():
    apart = scenes.scene(student=3, teacher=5)
    kinds = [kind for kind in choices("adapter.kind") if kind != "identity"]

    @compiled
    def run(scene):
        values = []
        for kind in kinds:
            config = scenes.changed(FEATURES, adapter={"kind": kind, "init": "lecun"}, feature={"levels": 1})
            params = scenes.parameters(tar, config, scene)
            assert set(params) == {"adapter_4"}
            values.append(scenes.ask(tar, config, params, scene).terms["feature_4"].mean())
        return jnp.stack(values)

    values = run(apart)
    found = dict(zip(kinds, values.tolist(), strict=True))
    assert found.pop("auto") == found["conv1"]  # as the widths differ
    assert min(found.values()) > 0 and len(set(found.values())) == len(found)
