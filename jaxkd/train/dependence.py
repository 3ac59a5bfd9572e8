"""Which results of a function can be had without some of its arguments."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Var

Tree = Any


def needs_first(function: Callable[..., Tree], first: Tree, *rest: Tree) -> Tree:
    """For each leaf of what `function` returns, whether numbers of its first argument enter it; shapes do not count.

    Read off the traced program, in which an operation with several results, such as a loop, is taken as a whole: what
    is said to need nothing of `first` truly does not, and the reverse may be wrong.
    """
    program, results = jax.make_jaxpr(function, return_shape=True)(first, *rest)
    reached: set[Var] = set(program.jaxpr.invars[: len(jax.tree.leaves(first))])
    for operation in program.jaxpr.eqns:
        if any(isinstance(value, Var) and value in reached for value in operation.invars):
            reached.update(operation.outvars)
    found = [isinstance(value, Var) and value in reached for value in program.jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(results), found)
