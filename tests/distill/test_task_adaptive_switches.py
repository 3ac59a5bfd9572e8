"""Every field of task-adaptive regularisation does something of its own."""

import dataclasses
import typing

import distill_scene as scenes
import numpy as np
import pytest
from jax import numpy as jnp
from task_adaptive_scene import BOXES, CLASSES, FEATURES, PLAIN, ask_all, choices, compiled, scene, total

from jaxkd.distill import task_adaptive as tar

FEATURE_SWITCHES = ("feat_source", "level_assign", "mask_grid", "mask_merge", "feat_norm", "feat_levels")
CLASS_SWITCHES = ("cls_form", "cls_reduce", "cls_subset", "cls_gate", "cls_norm")
BOX_SWITCHES = ("reg_gate", "reg_form", "reg_norm")


def test_every_switch_is_looked_at():
    hints = typing.get_type_hints(tar.Config)
    switches = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.Literal}
    seen = {*FEATURE_SWITCHES, *CLASS_SWITCHES, *BOX_SWITCHES}
    assert switches - seen == {"share_from", "share_stage", "adapter", "adapter_init"}


@pytest.mark.parametrize(
    ("start", "name"),
    [
        *((FEATURES, name) for name in FEATURE_SWITCHES),
        *((CLASSES, name) for name in CLASS_SWITCHES),
        *((BOXES, name) for name in BOX_SWITCHES),
    ],
    ids=[*FEATURE_SWITCHES, *CLASS_SWITCHES, *BOX_SWITCHES],
)
def test_each_choice_of_a_switch_gives_its_own_finite_value(start, name):
    configs = tuple(dataclasses.replace(start, **{name: choice}) for choice in choices(name))
    values = [float(total(outcome)) for outcome in ask_all(configs, scene())]
    assert np.all(np.isfinite(values)) and np.all(np.array(values) > 0)
    assert len(set(values)) == len(values), values


@pytest.mark.parametrize(
    ("start", "changes"),
    [
        (FEATURES, {"sigma_sq": 0.5, "levels": 1, "level_scale": 64.0, "level_canonical": 6}),
        (CLASSES, {"temperature": 2.0}),
        (BOXES, {"reg_margin": 0.1, "reg_beta": 0.1}),
    ],
    ids=["features", "classes", "boxes"],
)
def test_each_number_matters(start, changes):
    configs = [dataclasses.replace(start, **{name: value}) for name, value in changes.items()]
    usual, *changed = (float(total(outcome)) for outcome in ask_all((start, *configs), scene()))
    assert np.all(np.isfinite(changed))
    assert usual not in changed


def test_weights_scale_their_terms_and_zero_leaves_them_out():
    members = {"w_feat": ["feature_4", "feature_8"], "w_cls": ["class"], "w_reg": ["box"]}
    configs = [PLAIN]
    for weight in members:
        configs.append(dataclasses.replace(PLAIN, **{weight: 2 * getattr(PLAIN, weight)}))
        configs.append(dataclasses.replace(PLAIN, **{weight: 0.0}))
    usual, *others = (outcome.terms for outcome in ask_all(tuple(configs), scene()))
    for names, doubled, without in zip(members.values(), others[::2], others[1::2], strict=True):
        for name, term in usual.items():
            np.testing.assert_allclose(doubled[name].mean(), (1 + (name in names)) * term.mean(), rtol=1e-6)
        assert set(without) == set(usual) - set(names)


def test_each_adapter_runs_between_widths():
    apart = scenes.scene(student=3, teacher=5)
    kinds = [kind for kind in choices("adapter") if kind != "identity"]

    @compiled
    def run(scene):
        values = []
        for kind in kinds:
            config = dataclasses.replace(FEATURES, adapt=kind, adapter_init="lecun", levels=1)
            params = scenes.parameters(tar, config, scene)
            assert set(params) == {"adapter_4"}
            values.append(scenes.ask(tar, config, params, scene).terms["feature_4"].mean())
        return jnp.stack(values)

    values = run(apart)
    assert np.all(values > 0) and len(set(values.tolist())) == len(kinds)
