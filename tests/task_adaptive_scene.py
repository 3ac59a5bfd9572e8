"""The made-up moment of `distill_scene` for task-adaptive regularisation, and configs that ask for parts of it."""

import dataclasses
import functools
import typing

import distill_scene as scenes
import jax

from jaxkd.distill import task_adaptive as tar

IDENTITY = {"adapter_4": {}, "adapter_8": {}}
PLAIN = tar.Config(adapt="identity")
HEADS = tar.Config(w_feat=0.0)
FEATURES = dataclasses.replace(PLAIN, w_cls=0.0, w_reg=0.0)
CLASSES = dataclasses.replace(HEADS, w_reg=0.0)
BOXES = dataclasses.replace(HEADS, w_cls=0.0)

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


def choices(name):
    """What a field of the config may be."""
    return typing.get_args(typing.get_type_hints(tar.Config)[name])
