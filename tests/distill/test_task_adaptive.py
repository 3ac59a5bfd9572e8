"""Task-adaptive regularisation (Sun et al. 2020, arXiv 2006.13108): worked examples, properties, what it refuses."""

import dataclasses
import functools

import distill_scene as scenes
import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import PartitionSpec
from task_adaptive_scene import (
    BOXES,
    CLASSES,
    HEADS,
    IDENTITY,
    OFF,
    PLAIN,
    ask,
    ask_all,
    choices,
    compiled,
    scene,
    total,
)

from jaxkd.distill import base, decay
from jaxkd.distill import task_adaptive as tar
from jaxkd.errors import ConfigError
from jaxkd.ops import boxes as box_ops
from jaxkd.types import BoxCode

ONE = [[8.0, 16, 40, 48]]
TWO = [*ONE, [24.0, 16, 56, 48]]
USUAL = tar.Config()
NO_GATE = {"gate": "none"}
OPEN = scenes.changed(HEADS, classification=NO_GATE, box=NO_GATE)


def with_features(view, **maps):
    return view.replace(features=view.features.replace(**maps))


def with_predictions(view, **predictions):
    return view.replace(predictions=view.predictions.replace(**predictions))


def masks(boxes, config=USUAL, shape=(8, 8), stride=8):
    boxes = jnp.array([boxes])
    batch = scene().batch.replace(boxes=boxes, valid=jnp.ones(boxes.shape[:2], bool))
    return compiled_masks(config, (shape,), (stride,), batch)[0]


@compiled(static_argnums=(0, 1, 2))
def compiled_masks(config, shapes, strides, batch):
    return tar.level_masks(config, batch, shapes=list(shapes), strides=list(strides))


@compiled(static_argnums=0)
def learn(config, scene):
    """The outcome, and the gradients of the sum of all terms in the student's neck, logits and deltas."""

    def loss(floats):
        neck, logits, deltas = floats
        student = with_predictions(with_features(scene.student, neck=neck), logits=logits, deltas=deltas)
        outcome = scenes.ask(tar, config, IDENTITY, scene._replace(student=student))
        return total(outcome), outcome

    view = scene.student
    slopes, outcome = jax.grad(loss, has_aux=True)(
        (view.features.neck, view.predictions.logits, view.predictions.deltas)
    )
    return outcome, slopes


def slopes(config, scene):
    return learn(config, scene)[1]


def test_example_mask():
    expected = np.zeros((8, 8))
    expected[2:6, 1:5] = 0.731616
    expected[2:6:3, 1:5:3] = 0.569783
    expected[3:5, 2:4] = 0.939413
    np.testing.assert_allclose(masks(ONE)[0], expected, atol=1e-6)
    np.testing.assert_allclose(masks(ONE).sum(), 11.889709, rtol=1e-6)
    np.testing.assert_allclose(
        masks(ONE, scenes.changed(USUAL, feature={"mask_grid": "legacy_int"})).sum(), 11.367177, rtol=1e-6
    )
    np.testing.assert_allclose(masks(TWO).sum(), 18.573823, rtol=1e-6)


def test_example_feature():
    mask, zero = masks(ONE), jnp.zeros((1, 8, 8, 2))
    np.testing.assert_allclose(tar.feature_term(zero + 1, zero, mask).mean(), 1, rtol=1e-6)
    np.testing.assert_allclose(tar.feature_term(zero + 1, zero, mask, norm="elements").mean(), 0.5, rtol=1e-6)
    ramp = jnp.arange(128.0).reshape(1, 8, 8, 2) / 128
    np.testing.assert_allclose(tar.feature_term(ramp, zero, mask).mean(), 0.248728529, rtol=1e-6)


def test_example_decay():
    factor = decay.schedule(tar.Config().decay, steps=24, steps_per_epoch=2)
    expected = [1, 0.9167, 0.8333, 0.75, 0.6667, 0.5833, 0.5, 0.4167, 0.3333, 0.25, 0.1667, 0.0833]
    np.testing.assert_allclose([factor(step) for step in range(0, 24, 2)], expected, atol=5e-5)


def test_identity_a_student_that_is_the_teacher_has_nothing_to_learn():
    config = scenes.changed(PLAIN, classification=OFF, box=NO_GATE)
    outcome, slopes = learn(config, scene()._replace(student=scene().teacher))
    assert all(term.total == 0 and term.count > 0 for term in outcome.terms.values())
    for slope in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("form", ["bce", "kl", "ce"])
def test_identity_the_class_term_is_at_its_floor(form):
    config = scenes.changed(CLASSES, classification={"form": form, "gate": "none"})
    outcome, (_, logits, _) = learn(config, scene()._replace(student=scene().teacher))
    np.testing.assert_allclose(outcome.metrics["class_excess"].mean(), 0, atol=1e-7)
    assert bool(outcome.terms["class"].total == 0) is (form == "kl")
    np.testing.assert_allclose(logits, 0, atol=1e-6)


def test_mask_shape():
    boxes = [[0.5, 0.5, 100.5, 200.5]]
    mask = masks(boxes, scenes.changed(USUAL, feature={"sigma_sq": 1.5}), shape=(220, 110), stride=1)[0]
    np.testing.assert_allclose(mask[100, 50], 1, atol=1e-6)
    np.testing.assert_allclose([mask[0, 50], mask[100, 0], mask[200, 50], mask[100, 100]], np.exp(-1 / 1.5), rtol=1e-5)
    np.testing.assert_allclose([mask[0, 0], mask[200, 100]], np.exp(-2 / 1.5), rtol=1e-5)
    assert not np.any(mask[201:]) and not np.any(mask[:, 101:])
    assert np.min(mask) >= 0 and np.max(mask) <= 1


def test_mirror_flips_the_mask_on_the_centre_grid_only():
    flipped = np.array(box_ops.flip(jnp.array(TWO), 64)).tolist()
    np.testing.assert_allclose(masks(flipped), masks(TWO)[..., ::-1], atol=1e-6)
    legacy = scenes.changed(USUAL, feature={"mask_grid": "legacy_int"})
    assert np.max(np.abs(masks(flipped, legacy) - masks(TWO, legacy)[..., ::-1])) > 0.1


def test_overlap_order_and_duplicates_change_nothing():
    np.testing.assert_array_equal(masks([*TWO[::-1], TWO[0]]), masks([*TWO, TWO[1]]))
    np.testing.assert_array_equal(masks([*TWO, TWO[1]]), masks(TWO))
    assert np.all(masks(TWO) >= masks(ONE)) and np.any(masks(TWO) > masks(ONE))


def test_padding_with_junk_equals_slicing():
    config = scenes.changed(PLAIN, classification={"subset": "all"}, box={"norm": "num_rois"})
    junk = scenes.with_junk_in_padding(scene())
    real = scenes.POSITIVE + scenes.BACKGROUND

    def sliced(view):
        return view.replace(predictions=jax.tree.map(lambda leaf: leaf[:, :real], view.predictions))

    batch = scene().batch
    batch = batch.replace(boxes=batch.boxes[:, :3], labels=batch.labels[:, :3], valid=batch.valid[:, :3])
    regions = jax.tree.map(lambda leaf: leaf[:, :real], scene().regions)
    short = scenes.Scene(sliced(scene().student), sliced(scene().teacher), regions, batch)
    outcome, (neck, logits, deltas) = learn(config, short)
    padded, (junk_neck, junk_logits, junk_deltas) = learn(config, junk)
    for name, term in outcome.terms.items():
        both = padded.terms[name]
        np.testing.assert_allclose([both.total, both.count], [term.total, term.count], rtol=1e-6)
    for ours, theirs in zip(junk_neck, neck, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    for ours, theirs in ((junk_logits, logits), (junk_deltas, deltas)):
        np.testing.assert_allclose(ours[:, :real], theirs, atol=1e-7)
        np.testing.assert_array_equal(ours[:, real:], 0)


def test_locality_no_gradient_where_the_mask_is_zero():
    neck, _, _ = slopes(PLAIN, scene())
    masks = compiled_masks(PLAIN, ((32, 32), (16, 16)), (4, 8), scene().batch)
    for slope, mask in zip(neck, masks, strict=True):
        assert np.any(mask == 0) and np.any(mask > 0)
        np.testing.assert_array_equal(np.any(np.array(slope) != 0, axis=-1), np.array(mask) > 0)


@pytest.mark.parametrize("norm", ["spatial", "elements"])
def test_direction_of_the_features_is_to_the_teacher(norm):
    mine, theirs, mask = jnp.ones((1, 8, 8, 2)), jnp.full((1, 8, 8, 2), 3.0), masks(ONE)
    slope = jax.grad(lambda mine: tar.feature_term(mine, theirs, mask, norm=norm).mean())(mine)
    expected = mask / mask.sum() * -2 / (2 if norm == "elements" else 1)
    np.testing.assert_allclose(slope, expected[..., None].repeat(2, -1), rtol=1e-5)


def test_direction_of_the_classes_is_the_gap_of_probabilities():
    _, logits, _ = slopes(scenes.changed(CLASSES, classification={"gate": "none", "form": "kl"}), scene())
    student, teacher = scene().student.predictions.logits, scene().teacher.predictions.logits
    gap = jax.nn.softmax(student) - jax.nn.softmax(teacher)
    positive = scene().regions.positive
    expected = jnp.where(positive[..., None], gap, 0) * CLASSES.classification.weight / gap.shape[-1] / positive.sum()
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_scaling_of_the_feature_term():
    mask, gap = masks(TWO), jax.random.normal(jax.random.key(0), (1, 8, 8, 6))
    usual = tar.feature_term(gap, jnp.zeros_like(gap), mask).mean()
    np.testing.assert_allclose(tar.feature_term(3 * gap, jnp.zeros_like(gap), mask).mean(), 9 * usual, rtol=1e-5)
    np.testing.assert_allclose(tar.feature_term(gap, jnp.zeros_like(gap), 0.3 * mask).mean(), usual, rtol=1e-5)
    elements = tar.feature_term(gap, jnp.zeros_like(gap), mask, norm="elements").mean()
    np.testing.assert_allclose(usual, 6 * elements, rtol=1e-5)


def test_background_regions_have_no_gradient():
    _, logits, deltas = slopes(OPEN, scene())
    positive = np.array(scene().regions.positive)
    np.testing.assert_array_equal(np.any(np.array(logits) != 0, axis=-1), positive)
    np.testing.assert_array_equal(np.any(np.array(deltas) != 0, axis=(-1, -2)), positive)


def test_gate_opens_only_where_the_teacher_improves_on_the_proposal():
    regions, teacher = scene().regions, scene().teacher.predictions.deltas
    truth = jnp.take_along_axis(scene().batch.boxes, regions.truth[..., None], axis=1)
    refined = box_ops.decode(box_ops.of_class(teacher, regions.labels), regions.boxes, weights=scenes.WEIGHTS)
    better = box_ops.paired_iou(refined, truth) > box_ops.paired_iou(regions.boxes, truth)
    acts = np.array(better & regions.positive)
    outcome, (_, _, deltas) = learn(HEADS, scene())
    np.testing.assert_array_equal(np.any(np.array(deltas) != 0, axis=(-1, -2)), acts)
    assert 0 < acts.sum() < regions.positive.sum()
    np.testing.assert_allclose(outcome.metrics["box_gate"].mean(), acts.sum() / regions.positive.sum())


def test_gate_is_shut_to_a_spoilt_teacher():
    spoilt = jnp.full_like(scene().teacher.predictions.deltas, 40.0)
    term = ask(BOXES, scene()._replace(teacher=with_predictions(scene().teacher, deltas=spoilt))).terms["box"]
    assert term.total == 0 and term.count > 0


def test_class_pick_only_the_deltas_of_the_matched_class_have_a_gradient():
    _, _, deltas = slopes(OPEN, scene())
    regions = scene().regions
    own = jax.nn.one_hot(regions.labels, len(scenes.CLASSES), dtype=bool) & regions.positive[..., None]
    np.testing.assert_array_equal(np.array(deltas) != 0, np.array(own)[..., None].repeat(4, -1))


def test_decay_scales_every_term_of_the_method():
    terms = ask(PLAIN, scene()).terms
    faded = base.scaled(terms, decay.schedule(PLAIN.decay, steps=4, steps_per_epoch=1)(3))
    assert set(faded) == {"feature_4", "feature_8", "class", "box"}
    for name, term in terms.items():
        np.testing.assert_allclose(faded[name].mean(), 0.25 * term.mean(), rtol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        scenes.changed(
            PLAIN,
            feature={"level_reduce": "pooled"},
            classification={"subset": "all", "gate": "none"},
            box={"norm": "num_rois"},
        ),
        scenes.changed(
            PLAIN,
            feature={"norm": "elements"},
            classification={"norm": "gated", "form": "kl"},
            box={"norm": "gated"},
        ),
    ],
)
def test_empty_gives_zero_and_finite_gradients(config):
    outcome, slopes = learn(config, scenes.without_anything(scene()))
    for term in outcome.terms.values():
        assert term.total == term.mean() == 0
    for slope in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(slope, 0)


def test_order_of_regions_changes_nothing():
    order = np.random.default_rng(3).permutation(scene().regions.labels.shape[1])

    def shuffled(tree):
        return jax.tree.map(lambda leaf: leaf[:, order], tree)

    other = scenes.Scene(
        scene().student.replace(predictions=shuffled(scene().student.predictions)),
        scene().teacher.replace(predictions=shuffled(scene().teacher.predictions)),
        shuffled(scene().regions),
        scene().batch,
    )
    terms = ask(PLAIN, other).terms
    for name, term in ask(PLAIN, scene()).terms.items():
        np.testing.assert_allclose(terms[name].mean(), term.mean(), rtol=1e-5)


def test_batch_normaliser_is_summed_before_it_divides():
    whole = ask(PLAIN, scene()).terms
    halves = [ask(PLAIN, jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], scene())).terms for i in (0, 1)]
    for name, term in whole.items():
        total, count = (sum(getattr(half[name], part) for half in halves) for part in ("total", "count"))
        np.testing.assert_allclose(total / count, term.mean(), rtol=1e-5)
    averaged = 0.5 * (halves[0]["feature_4"].mean() + halves[1]["feature_4"].mean())
    assert abs(averaged - whole["feature_4"].mean()) > 1e-3 * averaged


def test_batch_normaliser_two_devices_equal_one():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec(), check_vma=False
    )
    def terms(part):
        return jax.lax.psum(scenes.ask(tar, PLAIN, IDENTITY, part).terms, "data")

    alone = ask(PLAIN, scene()).terms
    for name, term in compiled(terms)(scene()).items():
        np.testing.assert_allclose(term.mean(), alone[name].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "stage", "expected"),
    [
        ("student", "sampled", (("student", "sampled"),)),
        ("teacher", "rpn_topk", (("teacher", "proposals"),)),
        ("both", "sampled", (("student", "sampled"), ("teacher", "sampled"))),
    ],
)
def test_sharing(source, stage, expected):
    assert tar.region_sources(tar.Config(sharing=tar.Sharing(source, stage))) == tuple(
        base.RegionSource(*one) for one in expected
    )


def test_sharing_both_sets_averages_their_losses():
    one, two = ask(PLAIN, scene()), ask(PLAIN, scenes.scene(7, student=3, teacher=3))
    np.testing.assert_allclose(total(base.summed([one, two])), 0.5 * (total(one) + total(two)), rtol=1e-6)
    assert base.summed([one]) is one


def test_levels_hold_each_object_once():
    grid, batch = (((32, 32), (16, 16)), (4, 8)), scene().batch
    everywhere = scenes.changed(PLAIN, feature={"level_assign": "all"})
    small, large = (jnp.array([on] * 2) for on in ([True, True, False, False], [False, False, True, False]))
    by_size = compiled_masks(PLAIN, *grid, batch)
    for index, here in enumerate((small, large)):
        alone = compiled_masks(everywhere, *grid, batch.replace(valid=batch.valid & here))
        np.testing.assert_array_equal(by_size[index], alone[index])


def test_a_dense_detector_without_a_background_class():
    def dense(view):
        traits = dataclasses.replace(view.traits, background=None)
        predictions = view.predictions.replace(
            logits=view.predictions.logits[..., :-1], deltas=view.predictions.deltas[..., :1, :]
        )
        return view.replace(predictions=predictions, traits=traits)

    views = [dense(view) for view in (scene().student, scene().teacher)]
    configs = [
        scenes.changed(HEADS, classification={"gate": gate, "subset": "all"}) for gate in choices("classification.gate")
    ]
    outcomes = ask_all(tuple(configs), scenes.Scene(*views, scene().regions, scene().batch))
    values = [float(outcome.terms["class"].mean()) for outcome in outcomes]
    assert np.all(np.isfinite(values)) and values[0] > max(values[1:]) > 0


def test_a_teacher_with_another_box_code_teaches_the_same_boxes():
    deltas = scene().teacher.predictions.deltas / jnp.array(scenes.WEIGHTS)
    teacher = with_predictions(scene().teacher, deltas=deltas)
    teacher = teacher.replace(traits=dataclasses.replace(teacher.traits, box_code=BoxCode()))
    other, usual = (ask(BOXES, scene()._replace(teacher=one)).terms["box"] for one in (teacher, scene().teacher))
    np.testing.assert_allclose(other.mean(), usual.mean(), rtol=1e-4)


def test_a_teacher_with_one_box_for_all_classes():
    own = box_ops.of_class(scene().teacher.predictions.deltas, scene().regions.labels)[..., None, :]
    teacher = with_predictions(scene().teacher, deltas=own)
    other = ask(BOXES, scene()._replace(teacher=teacher)).terms["box"]
    np.testing.assert_allclose(other.mean(), ask(BOXES, scene()).terms["box"].mean(), rtol=1e-6)


def test_floor_and_gates_are_reported():
    metrics = ask(scenes.changed(PLAIN, classification=NO_GATE), scene()).metrics
    assert set(metrics) == {"mask_mass", "class_gate", "class_excess", "box_gate"}
    assert metrics["class_gate"].mean() == 1
    assert metrics["class_excess"].mean() > 0


def test_refuses_detectors_that_do_not_fit():
    def init(config=USUAL, **changes):
        traits = scenes.traits(3), scenes.traits(3, **changes)
        scenes.check(config, *traits)
        return tar.init(config, jax.random.key(0), *traits)

    with pytest.raises(ConfigError, match="same list"):
        init(classes=("white", "red", "blue"))
    for background in (None, 0):
        with pytest.raises(ConfigError, match=r"background column of the student .* is 3, .* set classif"):
            init(background=background)
    with pytest.raises(ConfigError, match="strides"):
        init(strides=(16, 32))
    assert init(HEADS) == {}
    only_features = scenes.changed(PLAIN, classification=OFF, box=OFF)
    assert init(only_features, classes=("one",), background=None) == IDENTITY
