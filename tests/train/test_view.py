"""A teacher on its own canvas: what is at a place of the picture is at that place for the student."""

import dataclasses

import detector_scene
import jax
import numpy as np
import pytest
import tiny
import toy_teachers
from jax import numpy as jnp

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.data.base import Record
from jaxkd.data.repairs import Repairs
from jaxkd.distill import base, global_knowledge, mimic, task_adaptive
from jaxkd.distill.adapters import Adapter
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.preflight import preflight
from jaxkd.train import mesh, optimizer, pairing, view
from jaxkd.train.evaluate import OwnCanvasDetector
from jaxkd.train.lesson import StepInputs, distill, image_keys, on_regions, teacher_features, with_teacher
from jaxkd.train.refresh import Refresh
from jaxkd.train.step import Pair, initial_state, with_teacher_outputs
from jaxkd.types import DetectorOutputs, Predictions, Regions, TeacherView

VIEWS = {
    "one_and_a_half": {"size": (96, 144)},
    "stretched": {"size": (96, 96), "fit": "stretch"},
    "smaller": {"size": (48, 72)},
}
SAME = {"size": tiny.SIZE}


STUDENT = build.detector(tiny.detector(), shapes.CLASSES)


class Ramp:
    """Pictures whose red grows to the right and whose green grows downwards, in proportion to the picture."""

    def __init__(self, count=2, *, size=(64, 80)):
        self.classes, self.category_ids, self.repairs, self.size = ("thing",), (1,), Repairs("ramp"), size
        boxes = np.array([[8, 16, 40, 48], [24, 8, 72, 56]], np.float32)
        self.records = tuple(
            Record(index, index, f"{index}.png", *size, boxes, np.zeros(2, np.int32), np.zeros(2, bool))
            for index in range(count)
        )

    def read(self, index):
        del index
        height, width = self.size
        y, x = np.mgrid[:height, :width] + 0.5
        return np.stack([x / width * 255, y / height * 255, 0 * x + 128], -1).astype(np.uint8)

    def annotations(self):
        return {}


def batch_of(source, own=None, **more):
    loader_config = configs.build(tiny.loader(flip=0.0, teacher_view=own or {}, **more))
    found = next(loader.train_batches(source, loader_config, seed=0, steps=1, batch=2))
    return jax.tree.map(jnp.asarray, found)


def make_pair(student, teacher, methods, **fields):
    return Pair(student, teacher, methods, optimizer.build(optimizer.Config()), **fields)


@pytest.mark.parametrize("kind", VIEWS)
def test_a_feature_arrives_at_its_place(kind):
    """A mean of colours is a ramp as well, so every cell has to have the value of its own place."""
    batch, teacher = batch_of(Ramp(), VIEWS[kind]), toy_teachers.FeatureMaps(("thing",), width=3)
    pair = make_pair(STUDENT, teacher, {"mimic": mimic.Config()}, own_canvas=True, bilinear=True)
    params = {"mix": jnp.eye(3)}
    assert batch.teacher.images.shape[1:3] == VIEWS[kind]["size"]
    maps = teacher_features(pair, params, batch)
    assert maps.neck[0].shape[1:3] == tuple(side // 4 for side in VIEWS[kind]["size"])
    found = view.on_student_grid(maps, teacher.traits, batch, bilinear=True)
    for stride, level in zip(toy_teachers.STRIDES[:2], found.neck[:2], strict=True):
        wanted = toy_teachers.mean_colour(batch.images, stride)
        assert level.shape == wanted.shape
        inner = (slice(None), slice(1, 64 // stride - 1), slice(1, 80 // stride - 1))
        np.testing.assert_allclose(level[inner], wanted[inner], atol=2 / 255)
        assert not level[:, :, 80 // stride :].any()  # beyond the picture


def test_boxes_map_both_ways():
    batch = batch_of(Ramp(), VIEWS["stretched"])
    np.testing.assert_allclose(batch.teacher.scales, [[1.5, 1.2]] * 2)
    seen = batch.as_teacher_sees()
    assert seen.teacher is None and seen.images is batch.teacher.images
    np.testing.assert_allclose(seen.boxes[0, 0], [8 * 1.2, 16 * 1.5, 40 * 1.2, 48 * 1.5], rtol=1e-6)
    np.testing.assert_allclose(seen.scales, batch.scales * batch.teacher.scales)
    np.testing.assert_allclose(batch.teacher.to_student(seen.boxes), batch.boxes, rtol=1e-6)
    whole = batch_of(Ramp(), {"size": (128, 160)})
    np.testing.assert_array_equal(whole.teacher.to_student(whole.as_teacher_sees().boxes), whole.boxes)
    alone = batch_of(Ramp())
    assert alone.teacher is None and alone.as_teacher_sees() is alone


def test_both_canvases_are_flipped_and_made_from_the_original():
    plain, flipped = (batch_of(Ramp(), VIEWS["one_and_a_half"], **more) for more in ({}, {"short": (32,)}))
    np.testing.assert_array_equal(plain.teacher.images, flipped.teacher.images)  # whatever the student's size is
    np.testing.assert_allclose(flipped.teacher.scales, 3.0)
    loader_config = configs.build(tiny.loader(flip=1.0, teacher_view=VIEWS["one_and_a_half"], cache=True))
    batches = loader.train_batches(Ramp(), loader_config, seed=0, steps=2, batch=2)
    for mirrored in batches:
        width = mirrored.teacher.sizes[0, 1]
        found, wanted = (one.teacher.images[:, :, :width] for one in (mirrored, plain))
        np.testing.assert_array_equal(found, wanted[:, :, ::-1])
        np.testing.assert_allclose(mirrored.boxes[0, 0], [40, 16, 72, 48])


@dataclasses.dataclass(frozen=True)
class Recorder(toy_teachers.FeatureMaps):
    """A two-stage teacher whose regions are the truth that it is shown, and whose deltas are the boxes it is asked."""

    @property
    def traits(self):
        capabilities = frozenset({"features", "box_predictions"})
        return dataclasses.replace(super().traits, capabilities=capabilities, background=1)

    def sample_regions(self, params, features, batch, keys, *, stage="sampled"):
        shape = batch.valid.shape
        regions = Regions(
            boxes=batch.boxes,
            labels=batch.labels,
            deltas=jnp.zeros((*shape, 4)),
            truth=jnp.zeros(shape, jnp.int32),
            positive=batch.valid,
            valid=batch.valid,
        )
        return regions, {}

    def predict(self, params, features, boxes, batch):
        return Predictions(logits=jnp.zeros((*boxes.shape[:2], 2)), deltas=boxes[:, :, None])

    def trainable(self, path):
        return True

    losses = detect = training_features = trainable  # are not called


@pytest.mark.parametrize("kind", VIEWS)
def test_regions_of_either_detector_are_on_the_canvas_of_each(kind):
    """Student and teacher are both asked for the same boxes, each in the pixels that it sees."""
    batch, detector = batch_of(Ramp(), VIEWS[kind]), Recorder(("thing",))
    methods = {"mimic": mimic.Config()}
    pair = make_pair(detector, detector, methods, own_canvas=True, bilinear=True)
    params = detector.init(jax.random.key(0))
    inputs = with_teacher_outputs(pair, StepInputs(batch, params, key=jax.random.key(0)))
    features = detector.features(params, batch)
    for source in ("student", "teacher"):
        chosen = base.RegionSource(source)
        found = on_regions(pair, params, features, inputs, source=chosen, keys=image_keys(inputs))
        np.testing.assert_allclose(found.regions.boxes, batch.boxes, rtol=1e-6)
        np.testing.assert_allclose(found.student.predictions.deltas[:, :, 0], batch.boxes, rtol=1e-6)
        seen = batch.as_teacher_sees().boxes
        np.testing.assert_allclose(found.teacher.predictions.deltas[:, :, 0], seen, rtol=1e-6)
        assert [level.shape for level in found.teacher.features.neck] == [level.shape for level in features.neck]


def test_detections_come_back_to_the_students_canvas():
    batch = batch_of(Ramp(), VIEWS["stretched"])
    found = OwnCanvasDetector(toy_teachers.FinalDetections(("thing",))).detect({"score": jnp.ones(())}, batch)
    np.testing.assert_allclose(found.boxes, batch.boxes, rtol=1e-6)


def test_an_equal_canvas_is_the_same_canvas():
    batch = batch_of(Ramp(), SAME)
    np.testing.assert_array_equal(batch.teacher.images, batch.images)
    np.testing.assert_array_equal(batch.teacher.sizes, batch.sizes)
    np.testing.assert_array_equal(batch.teacher.scales, 1)


def test_an_equal_canvas_gives_equal_losses():
    """Of every method, from outputs of a student that other tests compile too."""
    case, scene = detector_scene.case("faster_rcnn"), jax.tree.map(jnp.asarray, detector_scene.batch_in((64, 96)))
    seen = jax.tree.map(jnp.asarray, {name: case.seen[name] for name in ("features", "predictions", "regions")})
    teacher, lecun = build.detector(tiny.detector(width=12), shapes.CLASSES), Adapter(init="lecun")
    search, ungated = global_knowledge.Search(count=2), task_adaptive.Box(gate="none")
    methods = {
        "tar": task_adaptive.Config(box=ungated, adapter=lecun),
        "gkd": global_knowledge.Config(prototypes=search, canonical_scale=28.0, adapter=lecun),
        "mimic": mimic.Config(adapter=lecun),
    }
    own = TeacherView(scene.images, scene.sizes, jnp.ones((4, 2)))
    pairs = [
        make_pair(case.detector, teacher, methods, own_canvas=own_canvas, bilinear=True) for own_canvas in (False, True)
    ]
    state = jax.jit(lambda params: initial_state(pairs[0], params, jax.random.key(1)))(case.params)
    memory = jax.tree.map(lambda leaf: (jnp.arange(leaf.size) % 3).reshape(leaf.shape).astype(leaf.dtype), state.memory)
    terms = []
    for pair, batch in zip(pairs, (scene, scene.replace(teacher=own)), strict=True):

        @jax.jit
        def run(method_params, teacher_params, batch, pair=pair):
            decay = dict.fromkeys(methods, jnp.ones(()))
            inputs = StepInputs(batch, teacher_params, memory=memory, key=jax.random.key(2), decay=decay)
            inputs, traits = with_teacher_outputs(pair, inputs), pair.student.traits
            outputs = DetectorOutputs(seen["features"], seen["predictions"], traits)
            shared = with_teacher(pair, inputs, outputs, seen["regions"], owner=traits)
            return distill(pair, {"distill": method_params}, inputs, shared, keys=detector_scene.KEYS).terms

        terms.append(jax.device_get(run(state.params["distill"], teacher.init(jax.random.key(7)), batch)))
    assert {"tar/class", "tar/box", "tar/feature_4", "gkd/global", "gkd/soft", "mimic/feature_8"} <= set(terms[0])
    for name, term in terms[0].items():
        assert term.mean() != 0 or term.count == 0 or name == "tar/feature_32", name
        np.testing.assert_allclose(terms[1][name].mean(), term.mean(), rtol=1e-5, atol=1e-5, err_msg=name)


def test_anchors_on_another_canvas_are_not_the_students():
    detector = build.detector(tiny.retinanet(), ("thing",))
    pair = make_pair(detector, detector, {"tar": task_adaptive.Config()}, own_canvas=True)
    assert not base.can_predict(pair.teacher_traits, detector.traits)
    assert base.can_predict(pair.teacher_traits, pair.teacher_traits)
    params = jax.eval_shape(detector.init, jax.random.key(0))
    with pytest.raises(ConfigError, match=r"own anchors only, .* \(they lie on another canvas, data\.loader"):
        jax.eval_shape(lambda params: initial_state(pair, params, jax.random.key(1)), params)


def test_other_grids_are_refused_unless_they_are_interpolated():
    batch, teacher = batch_of(Ramp(), VIEWS["one_and_a_half"]), toy_teachers.FeatureMaps(("thing",))
    features = teacher.features(teacher.init(jax.random.key(0)), batch.as_teacher_sees())
    with pytest.raises(
        ConfigError, match=r"stride 4 has 24x36 cells .* 16x24; set data\.loader\.teacher_view\.resample"
    ):
        view.on_student_grid(features, teacher.traits, batch, bilinear=False)
    loader_config = configs.build(tiny.loader(teacher_view=VIEWS["one_and_a_half"]))
    assert loader.first_unlike(Ramp(), loader_config) == (
        "0.png is 64x80 (height x width) on a canvas of 64x96 for the student, and 96x120 on 96x144 for the teacher"
    )
    assert loader.first_unlike(Ramp(), configs.build(tiny.loader(teacher_view=SAME))) == ""
    assert loader.first_unlike(Ramp(), configs.build(tiny.loader())) == ""
    stretched = configs.build(tiny.loader(teacher_view=SAME | {"fit": "stretch"}))
    assert "64x96 on 64x96 for the teacher" in loader.first_unlike(Ramp(), stretched)


def test_a_run_that_compares_other_places_is_refused():
    pair = make_pair(STUDENT, STUDENT, {"mimic": mimic.Config()}, own_canvas=True)
    loader_config = configs.build(tiny.loader(teacher_view=VIEWS["stretched"]))
    with pytest.raises(ConfigError, match=r"compared cell by cell: 0\.png is 64x80 .* 'bilinear', or take a method"):
        pairing.check_view(pair, loader_config, Ramp())
    pairing.check_view(dataclasses.replace(pair, bilinear=True), loader_config, Ramp())
    heads = task_adaptive.Config(feature=task_adaptive.Feature(weight=0.0))
    pairing.check_view(dataclasses.replace(pair, methods={"tar": heads}), loader_config, Ramp())


def test_a_canvas_has_two_sides():
    with pytest.raises(ConfigError, match=r"teacher_view\.size is \(64, 0\); give a height and a width"):
        batch_of(Ramp(), {"size": (64, 0)})


def test_objects_are_described_on_the_students_grid():
    """The mean colour of an object, from either canvas."""
    source = shapes.load(shapes.Config(count=4, size=tiny.SIZE, seed=3))
    search = global_knowledge.Search(count=2, min_side=12.0)
    gkd = global_knowledge.Config(prototypes=search, soft=global_knowledge.Soft(weight=0.0))
    teacher = toy_teachers.FeatureMaps(source.classes, width=3)
    found = []
    for own in ({}, {"size": (128, 192)}):
        pair = make_pair(STUDENT, teacher, {"gkd": gkd}, own_canvas=bool(own), bilinear=True)
        loader_config = configs.build(tiny.loader(teacher_view=own))
        refresh = Refresh(pair, source, loader_config, mesh.make_mesh(1), batch=2, steps_per_epoch=2)
        found.append(refresh.describe("gkd", {"mix": jnp.eye(3)}, "teacher"))
    np.testing.assert_array_equal(found[0][0].labels, found[1][0].labels)
    for one, other in zip(found[0][1][:2], found[1][1][:2], strict=True):
        np.testing.assert_allclose(one, other, atol=0.06)


def test_shapes_are_those_of_a_batch():
    loader_config = configs.build(tiny.loader(teacher_view=VIEWS["stretched"]))
    batch = next(loader.train_batches(Ramp(), loader_config, seed=0, steps=1, batch=2))
    told = preflight.shapes(loader_config.canvas(0), pictures=2)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), told) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), batch
    )


def test_only_the_teacher_asks_for_its_canvas():
    loader_config = configs.build(tiny.loader(teacher_view=VIEWS["stretched"]))
    for teacher in (True, False):
        batch = next(loader.eval_batches(Ramp(), loader_config, batch=2, teacher=teacher))
        assert (batch.teacher is not None) == teacher
    recipe = tiny.run(
        data={
            "train": component("data.shapes"),
            "val": component("data.shapes"),
            "loader": tiny.loader(teacher_view=VIEWS["stretched"]),
        }
    )
    assert configs.build(recipe.data.loader).teacher_view.on
    assert not configs.build(recipe.data.loader).alone().teacher_view.on
