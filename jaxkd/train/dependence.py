"""Which results of a function depend on its first argument."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Var

Tree = Any


def depends_on_first(function: Callable[..., Tree], first: Tree, *rest: Tree) -> Tree:
    """For each leaf of the result of `function`, whether it depends on the numbers in its first argument.

    Read from the traced program, in which each result of an operation, such as a loop, counts as depending on all its
    operands: False is certain, True may be wrong. Shapes do not count.
    """
    program, results = jax.make_jaxpr(function, return_shape=True)(first, *rest)
    reached: set[Var] = set(program.jaxpr.invars[: len(jax.tree.leaves(first))])
    for operation in program.jaxpr.eqns:
        if any(isinstance(value, Var) and value in reached for value in operation.invars):
            reached.update(operation.outvars)
    depends = [isinstance(value, Var) and value in reached for value in program.jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(results), depends)
