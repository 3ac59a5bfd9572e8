"""GKD as a whole: masks and local terms by hand, the whole objective of example 8, refusals, and its switches."""

import dataclasses

import distill_scene as scenes
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import global_knowledge as gkd
from jaxkd.distill import mimic, prototype_space, prototypes, task_adaptive
from jaxkd.errors import ConfigError
from jaxkd.types import Batch, Reliability

SIGMAS = (0.9, 0.6, 0.95)
THREE = [[0.0, 0, 31, 31], [16, 8, 31, 31], [9, 9, 12, 12]]
MASKS = {
    "max": [[0.9, 0.9, 0.9, 0], [0.9, 0.95, 0.9, 0], [0.9, 0.9, 0.9, 0], [0, 0, 0, 0]],
    "last": [[0.9, 0.9, 0.9, 0], [0.9, 0.95, 0.6, 0], [0.9, 0.9, 0.6, 0], [0, 0, 0, 0]],
}


@pytest.fixture
def wide():
    """64-bit numbers, in which the worked examples are given."""
    with jax.enable_x64(True):
        yield


def wave(shape, t):
    """Example 8's numbers, given with channels second, as [b h w c]."""
    n = np.arange(np.prod(shape))
    values = (np.sin(0.7 * n + t) + 0.5 * np.cos(0.01 * n + t)).reshape(shape)
    return jnp.asarray(np.moveaxis(values, 1, -1) if len(shape) == 4 else values)


def pictures(count, side):
    """A batch of `count` pictures of which only the extents matter."""
    nothing = jnp.zeros((count, 1))
    return Batch(
        images=jnp.zeros((count, side, side, 3), jnp.uint8),
        sizes=jnp.full((count, 2), side, jnp.int32),
        boxes=jnp.zeros((count, 1, 4)),
        labels=nothing.astype(jnp.int32),
        valid=nothing.astype(bool),
        crowd=nothing.astype(bool),
        ids=jnp.arange(count),
        scales=jnp.ones((count, 2)),
        real=jnp.ones(count, bool),
    )


def instances(boxes, labels, valid):
    return gkd.Instances(jnp.asarray(boxes), jnp.asarray(labels), jnp.asarray(valid))


def three():
    return instances([THREE], [[0, 0, 0]], [[True] * 3])


@pytest.mark.parametrize("merge", ["max", "last"])
def test_masks_of_example_5(merge):
    config = gkd.Config(imitation=gkd.Imitation(overlap=merge))
    masks = gkd.object_masks(config, three(), [jnp.asarray([SIGMAS])] * 2, shapes=[(4, 4), (2, 2)], strides=[8, 16])
    np.testing.assert_array_equal(masks[0][0], np.float32(MASKS[merge]))
    assert not masks[1].any()


def test_levels_of_example_5():
    ends = [(31, 31), (111, 111), (223, 111), (895, 895), (1999, 1999)]
    boxes = jnp.array([[0.0, 0, x, y] for x, y in ends])
    assert gkd.level_of(gkd.Config(), boxes, levels=5, wider=1.0).tolist() == [0, 1, 1, 4, 4]


@pytest.mark.parametrize(("merge", "foreground"), [("max", 0.113324386503), ("last", 0.105442880795)])
def test_imitation_terms_of_example_6(wide, merge, foreground):
    ramp = np.arange(16.0).reshape(4, 4)
    adapted = jnp.asarray(np.stack([ramp / 10, -ramp / 20], -1))[None]
    config = gkd.Config(imitation=gkd.Imitation(overlap=merge))
    sigmas = [jnp.asarray([SIGMAS], jnp.float64)]
    levels = gkd.Levels([8], [adapted], [jnp.zeros_like(adapted)])
    terms = gkd.imitation_terms(config, levels, three(), sigmas, pictures(1, 32))
    # The maps are compared in float32.
    np.testing.assert_allclose(terms["foreground_8"].mean(), foreground, rtol=1e-6)
    np.testing.assert_allclose(terms["background_8"].mean(), 1.630357142857, rtol=1e-6)


def test_imitation_terms_without_objects_and_with_equal_weights():
    draw = np.random.default_rng(0)
    adapted, target = (jnp.asarray(draw.normal(size=(1, 4, 4, 3)), jnp.float32) for _ in range(2))
    half = 0.5 * ((adapted - target) ** 2).mean()
    config, batch, levels = gkd.Config(), pictures(1, 32), gkd.Levels([8], [adapted], [target])
    nobody = three()._replace(valid=jnp.zeros((1, 3), bool))
    terms = gkd.imitation_terms(config, levels, nobody, [jnp.ones((1, 3))], batch)
    assert terms["foreground_8"].mean() == 0
    np.testing.assert_allclose(terms["background_8"].mean(), 4 * half, rtol=1e-5)
    whole = instances([[[0.0, 0, 32, 32]]], [[0]], [[True]])
    terms = gkd.imitation_terms(config, levels, whole, [jnp.ones((1, 1))], batch)
    np.testing.assert_allclose(terms["foreground_8"].mean(), half, rtol=1e-5)
    assert terms["background_8"].mean() == 0
    sigmas = jnp.asarray([SIGMAS])
    usual, halved = (gkd.imitation_terms(config, levels, three(), [factor * sigmas], batch) for factor in (1.0, 0.5))
    for name in usual:
        np.testing.assert_allclose(usual[name].mean(), halved[name].mean(), rtol=1e-5)
    shuffled = three()._replace(boxes=three().boxes[:, ::-1])
    again = gkd.imitation_terms(config, levels, shuffled, [sigmas[:, ::-1]], batch)
    np.testing.assert_allclose(again["foreground_8"].mean(), usual["foreground_8"].mean(), rtol=1e-6)


@pytest.mark.parametrize(("area", "cells"), [("picture", 4), ("canvas", 16)])
def test_padding_is_background_only_where_asked_for(area, cells):
    """A picture of 2 x 2 cells without an object on a map of 4 x 4, where the distance is 1 and in the padding 3."""
    gap = np.full((1, 4, 4, 2), 3.0, np.float32)
    gap[:, :2, :2] = 1.0
    batch = pictures(1, 32).replace(sizes=jnp.full((1, 2), 16, jnp.int32))
    nobody = three()._replace(valid=jnp.zeros((1, 3), bool))
    config = gkd.Config(imitation=gkd.Imitation(background_area=area, background_weight=1.0))
    levels = gkd.Levels([8], [jnp.asarray(gap)], [jnp.zeros((1, 4, 4, 2))])
    terms = gkd.imitation_terms(config, levels, nobody, [jnp.ones((1, 3))], batch)
    assert terms["background_8"].count == 2 * cells
    np.testing.assert_allclose(terms["background_8"].mean(), 0.5 * (4 + 9 * (cells - 4)) / cells, rtol=1e-6)


def test_a_divisor_of_the_imitation_is_at_least_one():
    """One object of a single cell in which the two channels differ by 1, hardly relied on."""
    one = instances([[[1.0, 1, 2, 2]]], [[0]], [[True]])
    levels = gkd.Levels([8], [jnp.ones((1, 4, 4, 2))], [jnp.zeros((1, 4, 4, 2))])
    for sigma, wanted in ((0.5, 0.5), (0.25, 0.5), (0.1, 0.2), (0.0, 0.0)):
        terms = gkd.imitation_terms(gkd.Config(), levels, one, [jnp.full((1, 1), sigma)], pictures(1, 32))
        np.testing.assert_allclose(terms["foreground_8"].mean(), wanted, rtol=1e-6)


def test_negative_reliabilities_make_background():
    masks = gkd.object_masks(gkd.Config(), three(), [-jnp.ones((1, 3))], shapes=[(4, 4)], strides=[8])
    assert not masks[0].any()


def test_whole_objective_of_example_8(wide):
    config = gkd.Config()
    student = [wave((2, 3, 16, 16), 0), wave((2, 3, 8, 8), 0.3)]
    teacher = [wave((2, 4, 16, 16), 1), wave((2, 4, 8, 8), 1.3)]
    adapted = [wave((2, 4, 16, 16), 0.5), wave((2, 4, 8, 8), 0.8)]
    memory = prototypes.Prototypes(
        student=(wave((4, 3), 0.1), wave((4, 3), 0.2)),
        teacher=(wave((4, 4), 0.4), wave((4, 4), 0.6)),
        objects=(),
        known=jnp.ones(2, bool),
    )
    boxes = [[[5.0, 7, 60, 50], [10, 10, 126, 120]], [[40, 30, 41, 100], [0, 0, 0, 0]]]
    found = instances(boxes, [[0, 1], [1, 0]], [[True, True], [True, False]])
    sigmas, parts = [], []
    levels = gkd.Levels([8, 16], student, teacher)
    for index in range(2):
        sigma, term = gkd.project(config, levels, found, memory, index)
        sigmas.append(sigma)
        parts.append(term)
    for sigma, wanted in zip(
        sigmas, ([0.8393344101, 0.5342366469, 0.8843560493], [0.6269257427, 0.7149226828, 0.6813807030]), strict=True
    ):
        np.testing.assert_allclose(sigma[found.valid], wanted, rtol=1e-9)
    for part, wanted in zip(parts, (0.038896393767, 0.058273356130), strict=True):
        np.testing.assert_allclose(part.mean(), wanted, rtol=1e-9)
    fade = 1 - 6 / 24
    everything = fade * config.relation.weight * sum(part.mean() for part in parts)
    np.testing.assert_allclose(everything, 0.364386562112, rtol=1e-9)
    local = gkd.imitation_terms(config, levels._replace(student=adapted), found, sigmas, pictures(2, 128))
    foreground = fade * (local["foreground_8"].mean() + local["foreground_16"].mean())
    background = fade * (local["background_8"].mean() + local["background_16"].mean())
    np.testing.assert_allclose(foreground, 0.057130216227, rtol=1e-5)
    np.testing.assert_allclose(background, 0.234388959245, rtol=1e-5)
    soft = prototype_space.soft_term(
        jnp.array([[1.0, 0, -1], [0.5, 0.2, 0]]),
        jnp.array([[2.0, 0, -1], [0.1, 0.9, 0]]),
        sigma=jnp.array([0.9, 0.8]),
        valid=jnp.ones(2, bool),
        temperature=2.0,
    )
    np.testing.assert_allclose(soft.mean(), 0.032924478722, rtol=1e-9)
    np.testing.assert_allclose(everything + foreground + background + soft.mean(), 0.688830216306, rtol=1e-5)


@pytest.fixture(scope="module")
def scene():
    return scenes.scene()


def ask(scene, memory=None, **fields):
    config = scenes.changed(gkd.Config(), **fields)
    params = scenes.parameters(gkd, config, scene)
    return jax.jit(lambda: scenes.ask(gkd, config, params, scene, memory))()


def test_terms_and_their_switches(scene):
    outcome = ask(scene)
    assert set(outcome.terms) == {"global", "foreground_4", "foreground_8", "background_4", "background_8"}
    assert set(outcome.undecayed) == {"soft"}
    off = {"weight": 0.0}
    foreground = ask(scene, relation=off, imitation={"background_weight": 0.0}, soft=off)
    assert set(foreground.terms) == {"foreground_4", "foreground_8"}
    without = ask(scene, imitation={"foreground_weight": 0.0, "background_weight": 0.0})
    assert without.terms.keys() == {"global"}
    doubled = ask(scene, relation={"weight": 10.0}).terms["global"]
    np.testing.assert_allclose(doubled.mean(), 2 * outcome.terms["global"].mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("part", "term"),
    [("relation", "global"), ("imitation", "foreground_4"), ("soft", "soft")],
)
def test_reliability_can_be_left_out_of_each_term(scene, part, term):
    usual, without = ask(scene), ask(scene, **{part: {"reliability": False}})
    before, after = usual.terms | usual.undecayed, without.terms | without.undecayed
    changed = {name for name in before if abs(float(before[name].mean() - after[name].mean())) > 1e-9}
    assert term in changed
    assert {name.split("_")[0] for name in changed} == {term.split("_")[0]}


def test_reliabilities_lie_between_0_and_1(scene):
    config = gkd.Config()
    memory = scenes.remembered(gkd, config, scene)
    inputs = scenes.inputs(scene, memory=memory)
    given = jax.jit(lambda: gkd.reliability(config, inputs))()
    for part in (given.regions, *given.maps.values()):
        assert (part >= 0).all() and (part <= 1).all() and (part < 1).any()
    assert (given.regions[~scene.regions.positive] == 1).all()
    assert given.maps[4][1, -1, -1] == 1  # no object there
    explanation = jax.jit(lambda: gkd.explain(config, inputs))()
    assert set(explanation.masks) == {"sigma_4", "sigma_8"}


@pytest.mark.parametrize("module", [mimic, task_adaptive])
def test_other_methods_weigh_by_reliability(scene, module):
    config = module.Config()
    params = scenes.parameters(module, config, scene)

    def ask(regions, cells):
        given = Reliability(
            regions=jnp.full(scene.regions.valid.shape, regions),
            maps={4: jnp.full((2, 32, 32), cells), 8: jnp.full((2, 16, 16), cells)},
        )
        return module.losses(config, params, scenes.inputs(scene, reliability=given)).terms

    usual, full, halved = scenes.ask(module, config, params, scene).terms, ask(1.0, 1.0), ask(0.5, 0.25)
    for name, term in usual.items():
        np.testing.assert_allclose(full[name].mean(), term.mean(), rtol=1e-6)
        factor = 1.0 if name.startswith("feature") else 0.5  # features are divided by what the mask weighs
        np.testing.assert_allclose(halved[name].mean(), factor * term.mean(), rtol=1e-5)


def test_before_the_first_search_every_reliability_is_1(scene):
    traits = scene.student.traits, scene.teacher.traits
    outcome = ask(scene, memory=gkd.init_memory(gkd.Config(), *traits))
    assert outcome.terms["global"].mean() == 0
    assert outcome.metrics["sigma"].mean() == 1


def test_truth_in_the_place_of_positives(scene):
    outcome = ask(scene, instances="truth")
    assert outcome.terms["global"].count == scene.batch.valid.sum()
    assert ask(scene).terms["global"].count == scene.regions.positive.sum()
    assert ask(scene, max_instances=5).terms["global"].count == 10


def test_levels_that_do_not_fit_are_refused(scene):
    traits = scene.student.traits
    other = dataclasses.replace(scene.teacher.traits, strides=(4, 8, 16), channels=(5, 5, 5))
    with pytest.raises(ConfigError, match=r"strides \(4, 8\), the teacher's \(4, 8, 16\)"):
        gkd.init(gkd.Config(), jax.random.key(0), traits, other)
    assert set(gkd.init(gkd.Config(levels="common"), jax.random.key(0), traits, other)) == {"adapter_4", "adapter_8"}


def test_heads_that_cannot_be_compared_are_refused(scene):
    dense = dataclasses.replace(scene.teacher.traits, **scenes.DENSE)
    with pytest.raises(
        ConfigError, match=r"own anchors only, which the student's regions are not: set soft\.weight to 0"
    ):
        scenes.check(gkd.Config(), scene.student.traits, dense)
    scenes.check(gkd.Config(soft=gkd.Soft(weight=0.0)), scene.student.traits, dense)
    assert gkd.init(gkd.Config(soft=gkd.Soft(weight=0.0)), jax.random.key(0), scene.student.traits, dense)
    other = dataclasses.replace(scene.teacher.traits, classes=("a", "b", "c"))
    with pytest.raises(ConfigError, match="same list in the same order"):
        scenes.check(gkd.Config(), scene.student.traits, other)
