"""The made-up moment of `distill_scene` for task-adaptive regularisation, and configs that ask for parts of it."""

import functools
import typing

import distill_scene as scenes
import jax

from jaxkd.distill import task_adaptive as tar

IDENTITY = {"adapter_4": {}, "adapter_8": {}}
OFF = {"weight": 0.0}
PLAIN = scenes.changed(tar.Config(), adapter={"kind": "identity"})
HEADS = scenes.changed(tar.Config(), feature=OFF)
FEATURES = scenes.changed(PLAIN, classification=OFF, box=OFF)
CLASSES = scenes.changed(HEADS, box=OFF)
BOXES = scenes.changed(HEADS, classification=OFF)

# Fast to compile rather than fast to run.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def scene():
    return scenes.scene(student=3, teacher=3)


@compiled(static_argnums=0)
def ask_all(configs, scene):
    """The outcome of each of several configs that have no parameters, in one compilation."""
    return [scenes.ask(tar, config, IDENTITY, scene) for config in configs]


def ask(config, scene):
    return ask_all((config,), scene)[0]


def total(outcome):
    return sum(term.mean() for term in outcome.terms.values())


def switches():
    """The dotted names of the fields that are one of a few choices, with these."""
    return {
        f"{part}.{name}": typing.get_args(hint)
        for part, cls in typing.get_type_hints(tar.Config).items()
        if part not in ("reliability_from", "decay")
        for name, hint in typing.get_type_hints(cls).items()
        if typing.get_origin(hint) is typing.Literal
    }


def choices(name):
    """The choices of a dotted field."""
    return switches()[name]
