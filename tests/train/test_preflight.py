"""What a step is said to need: the compiled program's own numbers, with nothing of full size there."""

import dataclasses
import importlib.util
import math
from types import SimpleNamespace

import jax
import pytest
import tiny

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.errors import ConfigError
from jaxkd.train import chips, collectives, mesh, preflight, topology
from jaxkd.train.step import make_step

SMALL = chips.Chip("a small chip", 1000, 1e12, 1e9, "made up")


@pytest.fixture(scope="module")
def subject():
    """A tiny student, taught by a wider one of which there is only the recipe."""
    recipe = tiny.run(distill={"tar": component("distill.task_adaptive", level_scale=28.0)}, teacher="runs/nowhere")
    return preflight.subject(recipe, teacher=tiny.detector(width=12, channels=24))


@pytest.fixture(scope="module")
def found(subject):
    devices = mesh.make_mesh(4)
    chip = dataclasses.replace(chips.chip_of(devices.devices.flat[0], sharing=4), peak=1e12, bandwidth=1e10)
    return preflight.run(subject, devices, chip, search=False)


@pytest.fixture(scope="module")
def compiled(subject):
    """The same step, compiled without any of what is tested here."""
    devices = mesh.make_mesh(4)
    batch = preflight.shapes(subject.feeding, bucket=tiny.SIZE, pictures=4)
    return make_step(subject.pair, devices).lower(subject.state, subject.frozen, batch).compile()


def test_nothing_of_full_size_is_there(subject):
    leaves = jax.tree.leaves((subject.state, subject.frozen))
    assert len(leaves) > 100
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_memory_and_operations_are_the_compiled_programs_own(found, compiled):
    plan, cost, asked = compiled.memory_analysis(), compiled.cost_analysis(), found.asked
    assert asked.pictures == 1
    assert asked.program.memory.arguments == plan.argument_size_in_bytes
    assert asked.program.memory.temporaries == pytest.approx(plan.temp_size_in_bytes, rel=0.1)
    assert asked.program.flops == pytest.approx(cost["flops"], rel=0.01)
    assert asked.program.accessed == pytest.approx(cost["bytes accessed"], rel=0.01)
    assert asked.needed == asked.program.memory.total
    assert asked.fits and found.largest is None


def test_gradients_are_summed_once_and_nothing_else_leaves_a_device(found, subject):
    counted = found.asked.program.collectives
    assert set(counted) == {"all-reduce"}
    # Equal gradients are summed once: a shortcut's norm has the bias gradient of the branch that it is added to.
    assert counted["all-reduce"].bytes == pytest.approx(subject.trainable, rel=0.01)


def test_the_bound_is_the_slower_of_the_two(found):
    asked = found.asked
    bound = asked.bound(found.chip)
    assert bound.operations == pytest.approx(asked.program.flops / 1e12)
    assert bound.memory == pytest.approx(asked.program.accessed / 1e10)
    assert bound.seconds == max(bound.operations, bound.memory)
    assert asked.bound(dataclasses.replace(found.chip, peak=None)) is None


def test_a_batch_that_does_not_divide_is_refused(subject):
    with pytest.raises(ConfigError, match="batch of 6 does not divide over 4 devices; give --batch=8"):
        preflight.run(subject, mesh.make_mesh(4), SMALL, batch=6)


def test_shapes_are_those_of_the_loader():
    feeding = configs.build(tiny.loader())
    source = shapes.load(shapes.Config(count=4, size=tiny.SIZE))
    batches = loader.train_batches(source, feeding, seed=0, steps=1, batch=2)
    real = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), next(batches))
    batches.close()
    told = preflight.shapes(feeding, bucket=tiny.SIZE, pictures=2)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), told) == real


def test_of_buckets_with_equal_area_the_first_is_compiled():
    assert preflight._areas(((4, 6), (6, 4), (8, 8), (4, 6))) == ([(8, 8), (4, 6)], ((6, 4),))


@pytest.mark.parametrize(
    ("needs", "largest", "most"),
    [
        (lambda n: 100 + 110 * n, 8, 4),  # a line
        (lambda n: 100 + 110 * n - 2 * max(n - 5, 0) ** 2, 8, 5),  # that bends near the limit
        (lambda n: 2000, 0, 4),  # too much, however few
        (lambda n: 100 + 0.5 * n, preflight.MOST, 3),  # no end in sight
        (lambda n: 100 + 110 * n if n < 9 else 990 + n / 4 if n <= 30 else 50 * n, 30, 8),  # work done twice near it
        (lambda n: 0, 5, 5),  # a compiler that does not say how much
    ],
)
@pytest.mark.parametrize("first", [2, 20])
def test_few_compiles_find_the_largest_batch(needs, largest, most, first):
    def compiled(pictures):
        needed = needs(pictures)
        fits = pictures <= 5 if not needed else needed <= SMALL.memory
        return preflight.Probe((8, 8), pictures, int(needed), SMALL.memory, fits, 0.0, None)

    answer, probes = preflight.largest_fitting(compiled, compiled(first))
    assert answer == largest
    assert len({probe.pictures for probe in probes}) == len(probes) <= most


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
        assert preflight._used(said) == (int(18.25 * 2**30), int(15.75 * 2**30))
    assert preflight._used("Out of memory.") == (0, 0)


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
    with pytest.raises(ConfigError, match=r"needs libtpu, which is not installed: pip install 'jaxkd\[tpu\]'\."):
        topology.mesh_of("v5e:2x4")


def test_trainable_parameters_are_counted(subject):
    frozen = tiny.run(student=tiny.detector(norm="frozen_batch", frozen_stages=1))
    less = preflight.subject(frozen)
    assert 0 < less.trainable < subject.trainable
    assert less.frozen == {} and less.teacher == "Nothing is taught."
    whole = sum(math.prod(leaf.shape) * 4 for leaf in jax.tree.leaves(subject.state.params))
    assert subject.trainable == whole  # group norms and no frozen stage
