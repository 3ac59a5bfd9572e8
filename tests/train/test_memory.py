"""What a step needs of memory, and when that is refused."""

import types

import jax
import jax.numpy as jnp
import pytest

from jaxkd.train import memory

CPU = jax.devices("cpu")[0]
SHAPE = (8, 160, 224, 3)


def test_the_plan_counts_what_a_step_gives_back_once():
    program = jax.jit(lambda state: state * 2 + 1, donate_argnums=0).lower(jnp.zeros(1000)).compile()
    assert 4000 <= memory.planned(program) < 8000  # argument and output share their 4000 bytes


def program_of(number):
    plan = types.SimpleNamespace(
        argument_size_in_bytes=number, output_size_in_bytes=0, temp_size_in_bytes=0, alias_size_in_bytes=0
    )
    return types.SimpleNamespace(memory_analysis=lambda: plan)


def test_a_step_of_too_much_memory_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 10_000_000_000)
    memory.check(program_of(6_000_000_000), CPU, shape=SHAPE, devices=1)
    with pytest.raises(memory.StepTooLargeError, match=r"8 pictures of 160x224 needs 6 GB .* 60% of 5 GB") as raised:
        memory.check(program_of(6_000_000_000), CPU, shape=SHAPE, devices=2)
    assert (raised.value.batch, raised.value.exit_code) == (8, 71)


def test_an_accelerator_has_the_memory_that_it_reports():
    device = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 100})
    with pytest.raises(memory.StepTooLargeError):
        memory.check(program_of(61), device, shape=SHAPE, devices=8)
    silent = types.SimpleNamespace(platform="gpu", memory_stats=lambda: None)
    memory.check(program_of(61), silent, shape=SHAPE, devices=8)


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable: 4 kB\n", "max", "5", 4096),
        ("MemAvailable: 4 kB\n", "3000", "1000", 2000),
        ("MemAvailable: 4 kB\n", "9000", "1000", 4096),
    ],
)
def test_free_memory(monkeypatch, tmp_path, meminfo, limit, used, expected):
    for name, text in {"MEMINFO": meminfo, "GROUP_LIMIT": limit, "GROUP_USED": used}.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(memory, name, tmp_path / name)
    assert memory.free() == expected


def test_a_system_that_does_not_say_has_all_its_memory(monkeypatch, tmp_path):
    for name in ("MEMINFO", "GROUP_LIMIT", "GROUP_USED"):
        monkeypatch.setattr(memory, name, tmp_path / name)
    assert memory.free() > 2**28
