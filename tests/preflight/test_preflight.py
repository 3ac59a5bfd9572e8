"""What a step is said to need: the compiled program's own numbers, with nothing of full size there."""

import dataclasses
import importlib.util
import math
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import teacher_scene
import tiny

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.errors import ConfigError, JaxkdError
from jaxkd.loading import prepare
from jaxkd.preflight import chips, collectives, largest, plan, preflight, requirements, topology
from jaxkd.train import mesh, pairing, schedules
from jaxkd.train.step import make_step

PROGRAM = requirements.Program(requirements.Memory(1, 1, 1, 1, 1), 1.0, 1.0, {}, 0)
SMALL = chips.Chip("a small chip", 1000, 1e12, 1e9, "made up")
REPORT = "Memory Space: default (color=0)\nTotal bytes: 700 (700B)\n\nMemory Space: vmem (color=1)\nTotal bytes: 9\n"
TEXT = "  %fusion.remat.1 = f32[7]{0} fusion(%a)\n  %all-reduce.2 = f32[7]{0} all-reduce(%fusion.remat.1)\n"


def planned(bytes_of, *, memory=SMALL.memory, usable=900):
    """A planner for a chip whose compiler can use less than all of its memory, and says so when it refuses."""

    def planner(*, bucket, pictures):
        needed = int(bytes_of(pictures))
        fits = needed <= usable
        return requirements.Plan(bucket, pictures, needed, memory if fits else usable, fits, 0.5, {}, 0)

    return planner


def report(task, *, accepted):
    """What a compiler leaves in its folder."""
    names = {plan.TEXT: TEXT, plan.REPORT: REPORT} | ({plan.ACCEPTED: TEXT} if accepted else {})
    for pattern, text in names.items():
        (Path(task.folder) / pattern.replace("*", "module_0000.jit_step")).write_text(text)


def goes_on(task, theirs):
    report(task, accepted=True)
    time.sleep(600)


def dies(task, theirs):
    report(task, accepted=False)
    os._exit(3)


def ended(*, fits, program=None):
    return requirements.Probe((8, 8), 2, 999, 900, fits, 1.0, program)


@pytest.fixture(scope="module")
def subject():
    """A tiny student, taught by a wider one of which there is only the recipe."""
    tar = component("distill.task_adaptive", feature={"canonical_scale": 28.0})
    recipe = tiny.run(distill={"tar": tar}, teacher="runs/nowhere")
    return preflight.subject(recipe, teachers={"": tiny.detector(width=12, channels=24)})


@pytest.fixture(scope="module")
def found(subject):
    devices = mesh.make_mesh(4)
    chip = dataclasses.replace(chips.chip_of(devices.devices.flat[0], sharing=4), peak=1e12, bandwidth=1e10)
    return preflight.run(subject, devices, chip, search=False)


@pytest.fixture(scope="module")
def compiled(subject):
    """The same step, compiled without any of what is tested here."""
    devices = mesh.make_mesh(4)
    batch = preflight.shapes(subject.canvas, pictures=4)
    values = schedules.shapes(subject.pair.methods)
    return make_step(subject.pair, devices).lower(subject.state, subject.teacher_params, values, batch).compile()


def test_nothing_of_full_size_is_there(subject):
    leaves = jax.tree.leaves((subject.state, subject.teacher_params))
    assert len(leaves) > 100
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_memory_and_operations_are_the_compiled_programs_own(found, compiled):
    plan, cost, asked = compiled.memory_analysis(), compiled.cost_analysis(), found.requested
    assert asked.pictures == 1
    assert asked.program.memory.arguments == plan.argument_size_in_bytes
    assert asked.program.memory.temporaries == pytest.approx(plan.temp_size_in_bytes, rel=0.1)
    assert asked.program.flops == pytest.approx(cost["flops"], rel=0.01)
    assert asked.program.accessed == pytest.approx(cost["bytes accessed"], rel=0.01)
    assert asked.needed == asked.program.memory.total
    assert asked.fits and found.largest is None


def test_gradients_are_summed_once_and_nothing_else_leaves_a_device(found, subject):
    counted = found.requested.program.collectives
    assert set(counted) == {"all-reduce"}
    # Equal gradients are summed once: a shortcut's norm has the bias gradient of the branch that it is added to.
    assert counted["all-reduce"].bytes == pytest.approx(subject.trainable, rel=0.01)


def test_the_bound_is_the_slower_of_the_two(found):
    asked = found.requested
    bound = asked.bound(found.chip)
    assert bound.operations == pytest.approx(asked.program.flops / 1e12)
    assert bound.memory == pytest.approx(asked.program.accessed / 1e10)
    assert bound.seconds == max(bound.operations, bound.memory)
    assert asked.bound(dataclasses.replace(found.chip, peak=None)) is None


def test_a_batch_that_does_not_divide_is_refused(subject):
    with pytest.raises(ConfigError, match="batch of 6 does not divide over 4 devices; give --batch=8"):
        preflight.run(subject, mesh.make_mesh(4), SMALL, batch=6)
    halved = dataclasses.replace(subject, pair=dataclasses.replace(subject.pair, accumulate=2))
    with pytest.raises(ConfigError, match=r"12 does not divide over 4 devices in 2 parts .*; give --batch=16"):
        preflight.run(halved, mesh.make_mesh(4), SMALL, batch=12)


def test_a_teacher_computes_as_in_training(subject):
    assert subject.pair.student.config.dtype == "float32"
    recipe = tiny.run(distill={"mimic": component("distill.mimic")}, teacher="runs/nowhere")
    looked = preflight.subject(recipe, teachers={"": tiny.detector(dtype="bfloat16")})
    assert looked.pair.teacher.config.dtype == "float32"


def test_shapes_are_those_of_the_loader():
    loader_config = configs.build(tiny.loader())
    source = shapes.load(shapes.Config(count=4, size=tiny.SIZE))
    batches = loader.train_batches(source, loader_config, seed=0, steps=1, batch=2)
    real = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), next(batches))
    batches.close()
    told = preflight.shapes(loader_config.canvas(0), pictures=2)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), told) == real


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A recipe with a detector, a foundation backbone and a file of detections as teachers, two on own canvases."""
    return teacher_scene.recipe(teacher_scene.files(tmp_path_factory.mktemp("teachers")))


def shapes_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_the_step_of_several_teachers_is_the_one_that_runs(taught):
    looked = preflight.subject(taught)
    sources = prepare.load_sources(taught.data)
    loaded = prepare.load_teachers(taught, sources["train"])
    assert shapes_of(looked.teacher_params) == shapes_of(pairing.params_of(loaded))
    sources, _ = pairing.with_detections(loaded, sources, limit=looked.loader_config.max_objects)
    config = pairing.loader_config_of(taught, loaded)
    assert looked.loader_config == config
    batch = next(loader.train_batches(sources["train"], config, seed=0, steps=1, batch=2))
    assert shapes_of(preflight.shapes(looked.canvas, pictures=2)) == shapes_of(batch)
    assert set(batch.further) == {"large", "dino"} and batch.detections.class_scores.shape == (2, 6, 3)
    lines = looked.teacher.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["dino", "large", "web"]
    assert lines[2].endswith("web.json, with scores of classes.")
    devices = mesh.make_mesh(1)
    found = preflight.run(looked, devices, chips.chip_of(devices.devices.flat[0]), search=False)
    views = sum(math.prod(view.images.shape) for view in batch.further.values()) * 2
    assert found.requested.fits and found.requested.program.memory.arguments > views


def test_files_of_detections_that_are_not_here_are_counted(taught, tmp_path):
    det = component("distill.detections")
    recipe = tiny.run(distill={"det": det}, teacher=str(tmp_path / "web.json"))
    looked = preflight.subject(recipe)
    assert looked.teacher.endswith("web.json is not here: it is taken to have no scores of classes. Its classes are "
                                   "taken to be those of the data.")  # fmt: skip
    assert looked.canvas.teacher_boxes and not looked.canvas.class_scores and looked.teacher_params == {}
    batch = preflight.shapes(looked.canvas, pictures=4)
    assert batch.detections.boxes.shape == (4, 6, 4) and batch.detections.class_scores is None
    values = schedules.shapes(looked.pair.all_methods)
    make_step(looked.pair, mesh.make_mesh(1)).lower(looked.state, looked.teacher_params, values, batch)
    recipe.data.train = component("data.coco", annotations=str(tmp_path / "none.json"))
    recipe.teacher = taught.teachers.web.path
    looked = preflight.subject(recipe, classes=3)
    assert looked.teacher.endswith("with scores of classes. Its classes are taken to be those of the data.")
    assert looked.canvas.class_scores == 3


def test_one_of_several_teachers_may_be_like_a_recipes_student(taught):
    made = taught.copy_and_resolve_references()
    made.teachers.large.path = "runs/nowhere"
    with pytest.raises(ConfigError, match=r"The teacher runs/nowhere is not here; give --teacher=large=RECIPE"):
        preflight.subject(made)
    like = tiny.detector(width=12, channels=24)
    looked = preflight.subject(made, teachers={"large": like})
    assert "large: The teacher has the shape of a recipe's student." in looked.teacher
    assert shapes_of(looked.teacher_params) == shapes_of(preflight.subject(taught).teacher_params)
    with pytest.raises(
        ConfigError, match=r"dino, large and web; say in whose place --teacher is, such as --teacher=dino=R"
    ):
        preflight.subject(taught, teachers={"": like})
    made.teachers.dino.path = taught.teachers.web.path
    made.teachers.dino.distill = {"other": component("distill.detections")}
    with pytest.raises(ConfigError, match="Two teachers are files of detections"):
        preflight.subject(made, teachers={"large": like})


def test_pictures_without_labels_have_weights(taught):
    made = taught.copy_and_resolve_references()
    with made.unlocked():
        made.data.unlabelled = component("data.unlabelled", images="more")
    batch = preflight.shapes(preflight.subject(made).canvas, pictures=2)
    assert batch.weights.shape == (2, 6)


def test_of_buckets_with_equal_area_the_first_is_compiled():
    loader_config = loader.Config(buckets=((4, 6), (6, 4), (8, 8), (4, 6)))
    assert preflight.areas(loader_config) == ([(8, 8), (4, 6)], ((6, 4),))


@pytest.mark.parametrize(
    ("bytes_of", "expected", "most"),
    [
        (lambda n: 100 + 110 * n, 8, 4),  # a line
        (lambda n: 100 + 110 * n - 2 * max(n - 5, 0) ** 2, 8, 5),  # that bends near the limit
        (lambda n: 2000, 0, 4),  # too much, however few
        (lambda n: 100 + 0.5 * n, largest.MAX_PICTURES, 3),  # no end in sight
        (lambda n: 100 + 110 * n if n < 9 else 990 + n / 4 if n <= 30 else 50 * n, 30, 8),  # work done twice near it
        (lambda n: 0, 5, 5),  # a compiler that does not say how much
    ],
)
@pytest.mark.parametrize("first", [2, 20])
@pytest.mark.parametrize("parts", [1, 2])
def test_few_compiles_find_the_largest_batch(bytes_of, expected, most, first, parts):
    def compiled(pictures):
        needed = bytes_of(pictures)
        fits = pictures <= 5 if not needed else needed <= SMALL.memory
        return requirements.Probe((8, 8), pictures, int(needed), SMALL.memory, fits, 0.0, None)

    found, probes = largest.fitting(compiled, compiled(first), parts=parts)
    assert found == expected // parts * parts
    assert all(probe.pictures % parts == 0 for probe in probes)
    assert len({probe.pictures for probe in probes}) == len(probes) <= most


@pytest.mark.parametrize(
    ("code", "expected"),
    [(0, 7), (30, 7), (31, 6), (690, 1), (700, 0)],  # of 900; plans need 100 + 110 n, and whole steps so much more
)
def test_a_search_by_plans_counts_what_a_whole_step_takes_beside_its_own(code, expected):
    whole = requirements.Probe((8, 8), 1, 210 + code, SMALL.memory, True, 9.0, PROGRAM)
    found, beside, plans = largest.planned(planned(lambda n: 100 + 110 * n), whole)
    assert (found, beside) == (expected, code)
    assert plans[0].pictures == 1
    assert len({one.pictures for one in plans}) == len(plans) <= 6
    if expected:
        assert max(one.needed for one in plans if one.pictures <= expected) + code <= 900


def test_nothing_is_known_beside_the_plan_of_a_step_that_was_refused():
    whole = requirements.Probe((8, 8), 20, 2300, 900, False, 9.0, None)
    assert largest.planned(planned(lambda n: 100 + 110 * n), whole)[:2] == (7, 0)
    too_large = requirements.Probe((8, 8), 7, 1001, SMALL.memory, False, 9.0, PROGRAM)  # but compiled
    assert largest.planned(planned(lambda n: 100 + 110 * n), too_large)[:2] == (6, 131)


def test_with_a_planner_the_batch_asked_for_alone_is_compiled(subject, found):
    devices, needed = mesh.make_mesh(4), found.requested.needed
    chip = dataclasses.replace(SMALL, memory=int(2.1 * needed))
    planner = planned(lambda n: needed * (n / 5 + 0.5), memory=chip.memory, usable=chip.memory)
    looked = preflight.run(subject, devices, chip, planner=planner)
    assert [probe.pictures for probe in looked.probes] == [1]
    assert looked.plans[0].pictures == 1 and looked.plans[0].bucket == tiny.SIZE
    assert looked.overhead == pytest.approx(0.3 * needed, rel=0.1)
    assert looked.largest == 6


def test_plans_alone(subject):
    devices = mesh.make_mesh(4)
    outline = preflight.outline(subject, devices, SMALL, planner=planned(lambda n: 2000 * n), batch=8)
    assert outline.requested == outline.plans[0]
    assert (outline.requested.pictures, outline.requested.needed, outline.requested.limit) == (2, 4000, 900)
    assert not outline.requested.fits and outline.largest is None and outline.probes == ()


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Plans whose process, where there is one, runs a function of this module; its folder is below `tmp_path`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(topology, "mesh_of", lambda name: mesh.make_mesh(1))
    monkeypatch.setattr(chips, "chip_of", lambda device: SMALL)

    def make(child):
        monkeypatch.setattr(plan, "_compile", child)
        return plan.plan(plan.Step(tiny.run(), "v5e:2x2"), bucket=(8, 8), pictures=2)

    yield make
    assert not multiprocessing.active_children()
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_goes_on_to_code_is_stopped(made):
    began = time.monotonic()
    found = made(goes_on)
    assert time.monotonic() - began < 300
    assert (found.needed, found.limit, found.fits, found.repeated) == (700, SMALL.memory, True, 1)
    assert found.collectives == {"all-reduce": collectives.Collectives(1, 28)}


def test_a_compiler_that_dies_is_told_from_one_that_refuses(made):
    with pytest.raises(JaxkdError, match=r"compiled for v5e:2x2 ended without a word, .* too little memory"):
        made(dies)


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize("fits", [True, False])
def test_a_compiler_that_comes_to_its_end_says_how(made, monkeypatch, reported, fits):
    memory = requirements.Memory(arguments=100, outputs=50, temporaries=600, alias=50, program=40)
    program = requirements.Program(memory, 1.0, 2.0, {"all-reduce": collectives.Collectives(5, 6)}, 3)
    probe = ended(fits=fits, program=program if fits else None)

    def followed(task):
        if reported:
            report(task, accepted=False)
        return probe

    monkeypatch.setattr(plan, "_run_compiler", followed)
    found = made(None)
    assert (found.limit, found.fits) == (900, fits)
    assert found.needed == (700 if reported else memory.total - 40 if fits else probe.needed)
    assert sum(kind.count for kind in found.collectives.values()) == (1 if reported else 5 if fits else 0)


def test_what_a_process_says_is_heard(monkeypatch, tmp_path):
    task = plan.Task(plan.Step(tiny.run(), "v5e:2x2"), (8, 8), 2, str(tmp_path))
    ours, theirs = multiprocessing.Pipe(duplex=False)
    theirs.send(ended(fits=False))
    assert plan._receive_result(ours, task) == ended(fits=False)
    theirs.send(ConfigError("libtpu gives no topology v5e:2x2."))
    with pytest.raises(ConfigError, match="libtpu gives no topology"):
        plan._receive_result(ours, task)
    monkeypatch.setattr(plan, "LONGEST", 0.5)
    with pytest.raises(JaxkdError, match="no plan for v5e:2x2 after 0 minutes"):
        plan._receive_result(ours, task)


def test_collectives_are_read_from_the_text():
    text = """
  %all-reduce.1 = (f32[3,4]{1,0:T(8,128)S(1)}, /*index=1*/bf16[5]{0:T(256)}) all-reduce(%a, %b), channel_id=1
  ROOT %all-reduce-start.2 = f32[7]{0} all-reduce-start(%c), channel_id=2
  %all-reduce-done.2 = f32[7]{0} all-reduce-done(%all-reduce-start.2)
  %all-gather-start.3 = (f32[2]{0}, f32[8]{0}) all-gather-start(%d), channel_id=3
  %collective-permute-start.4 = (s8[6]{0}, s8[6]{0}, u32[], u32[]) collective-permute-start(%e), channel_id=4
  %fusion.5 = f32[9]{0} fusion(%all-reduce.1, %f), calls=%computation
"""
    assert collectives.count(text) == {
        "all-reduce": collectives.Collectives(2, 3 * 4 * 4 + 5 * 2 + 7 * 4),
        "all-gather": collectives.Collectives(1, 8 * 4),
        "collective-permute": collectives.Collectives(1, 6),
    }


def test_the_compilers_refusal_is_understood():
    for said in (
        "Ran out of memory in memory space hbm. Used 18.25G of 15.75G hbm. Exceeded hbm capacity by 2.50G.",
        "Ran out of memory on HBM, the memory required for HLO temporaries (18.25G) exceeds available HBM (15.75G).",
    ):
        assert preflight._needed_and_limit(said) == (int(18.25 * 2**30), int(15.75 * 2**30))
    assert preflight._needed_and_limit("Out of memory.") == (0, 0)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", "NVIDIA L40S"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
    ],
)
def test_chips_are_known_by_their_kind(kind, name):
    device = SimpleNamespace(device_kind=kind, platform="gpu", memory_stats=lambda: None)
    chip = chips.chip_of(device)
    assert chip.name == name
    assert (chip.peak is None) == (kind == "NVIDIA L40S")
    device.memory_stats = lambda: {"bytes_limit": 5}
    assert chips.chip_of(device).memory == 5


def test_published_numbers_are_plausible():
    for chip in chips.TABLE.values():
        assert 16 <= chip.memory / chips.GIB < 200
        assert 100 < chip.peak / chip.bandwidth < 700


def test_topologies_are_refused_in_one_sentence(monkeypatch):
    for name in ("v5e", "v5e:", "v5e:2y4", "nonsense", "v5e:0x4"):
        with pytest.raises(ConfigError, match=r"There is no topology .* such as v5e:16x16"):
            topology.mesh_of(name)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    with pytest.raises(ConfigError, match=r"libtpu, which is not installed: pip install 'jaxkd-detection\[tpu\]'\."):
        topology.mesh_of("v5e:2x4")


def test_trainable_parameters_are_counted(subject):
    frozen = tiny.run(student=tiny.detector(norm="frozen_batch", frozen_stages=1))
    less = preflight.subject(frozen)
    assert 0 < less.trainable < subject.trainable
    assert less.teacher_params == {} and less.teacher == "Nothing is taught."
    whole = sum(math.prod(leaf.shape) * 4 for leaf in jax.tree.leaves(subject.state.params))
    assert subject.trainable == whole  # group norms and no frozen stage
