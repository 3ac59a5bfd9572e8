"""Lowers a traced program to a format that has no XLA, in a few dozen operations.

What depends on constants alone is computed at once. The rest is lowered to an `ops.Ops`, one for each format, for any
number of pictures: the batch is a symbol in the program's shapes. Operands that are only broadcast stay in their
smallest shape, so a bias stays a row of numbers. Factors and shifts of a convolution's channels, such as those of a
frozen batch norm, join the convolution, and what changes no number, such as a mask of ones, is left out.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from jaxkd.export import fused
from jaxkd.export.context import Context
from jaxkd.export.ops import BINARY, UNARY, Handle, Ops
from jaxkd.export.rules import RULES
from jaxkd.export.values import (
    Convolution,
    Size,
    Value,
    constant,
    is_static,
    scalar_of_rank,
    static_sizes,
    with_shape,
)

ELEMENTWISE = (*UNARY, *BINARY, "clamp", "convert_element_type", "integer_pow", "is_finite", "select_n", "square")
IDENTITIES = ("copy", "name", "optimization_barrier", "reduce_precision", "stop_gradient")
INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}  # what changes no number, on the right


def lower(program: ClosedJaxpr, ops: Ops, inputs: Sequence[Handle], batch: Handle) -> list[Handle]:
    """The outputs, as handles of `ops`, of a program whose shapes have one symbol, the batch.

    Args:
      program: all of its inputs depend on the batch.
      ops: the format.
      inputs: handles of the program's inputs.
      batch: handle of the batch, int32.

    Raises ConfigError where the program has an operation that only StableHLO supports.
    """
    lowering = Lowering(ops, batch)
    values = [lowering.as_value(x, variable.aval) for x, variable in zip(inputs, program.jaxpr.invars, strict=True)]
    return [lowering.expanded(value) for value in lowering.run(program, values)]


class Lowering(Context):
    """Lowers a program, equation by equation, to `ops`."""

    def run(self, program: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a program or of a part of one."""
        jaxpr, equations = program.jaxpr, _needed(program.jaxpr)
        uses = collections.Counter(
            variable
            for variables in (jaxpr.outvars, *(equation.invars for equation in equations))
            for variable in variables
            if not isinstance(variable, Literal)
        )

        def named(variables: Sequence[Any], values: Sequence[Value]) -> dict[Any, Value]:
            """The values by variable; a convolution with two uses is written, as nothing may join it then."""
            pairs = zip(variables, values, strict=True)
            return {variable: self.settled(value) if uses[variable] > 1 else value for variable, value in pairs}

        values = named(jaxpr.invars, inputs)
        values |= {
            variable: constant(np.asarray(x)) for variable, x in zip(jaxpr.constvars, program.consts, strict=True)
        }

        def read(variable: Any) -> Value:
            if isinstance(variable, Literal):
                return constant(np.asarray(variable.val, _dtype(variable)))  # else a bare 1 would have 64 bits
            return values[variable]

        for equation in equations:
            outputs = self._equation(equation, [read(variable) for variable in equation.invars])
            values |= named(equation.outvars, outputs)
        return [read(variable) for variable in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, params, out = equation.primitive.name, equation.params, [v.aval for v in equation.outvars]
        if name in IDENTITIES:
            return inputs
        if name in INLINED:
            return self._call(equation, inputs)
        if name in ELEMENTWISE:
            return [self._elementwise(equation, inputs)]
        inputs = [self.settled(value) for value in inputs]
        if name == "platform_index":
            return [constant(np.asarray(_platform(params["platforms"]), np.int32))]
        if name == "cond":
            if not inputs[0].is_constant:
                raise self.unsupported("a condition that depends on the pictures")
            return self.run(params["branches"][int(inputs[0].array)], inputs[1:])
        if name in ("while", "scan"):
            return getattr(self, f"_{name}")(params, inputs, out)
        if name == "broadcast_in_dim":
            return [self._broadcast(inputs[0], [int(axis) for axis in params["broadcast_dimensions"]], out[0])]
        static = all(is_static(value.shape) for value in (*inputs, *out))
        if static and all(value.is_constant for value in inputs) and name != "dim_as_value":
            return [constant(x) for x in _evaluate(equation, [np.broadcast_to(v.array, v.shape) for v in inputs])]
        rule = RULES.get(name)
        if rule is None:
            raise self.unsupported(f"the operation {name}")
        results = rule(self, equation, inputs)
        results = results if isinstance(results, list) else [results]
        pairs = zip(results, out, strict=True)
        return [result if isinstance(result, Value) else self.as_value(result, aval) for result, aval in pairs]

    def _call(self, equation: Any, inputs: list[Value]) -> list[Value]:
        """A function within the program; one of `fused.FUSED` is lowered as one operation where the format has it."""
        program = equation.params[INLINED[equation.primitive.name]]
        if not isinstance(program, ClosedJaxpr):  # of a remat, which has no constants
            program = ClosedJaxpr(program, ())
        rule = fused.rule_of(program.jaxpr.debug_info.func_src_info or "")
        if rule is None or all(value.is_constant for value in inputs):
            return self.run(program, inputs)
        settled = [self.settled(value) for value in inputs]
        results = rule(self, equation, settled)
        return self.run(program, settled) if results is None else results

    def _elementwise(self, equation: Any, inputs: list[Value]) -> Value:
        name, params, aval = equation.primitive.name, equation.params, equation.outvars[0].aval
        rank = len(aval.shape)
        inputs = [value if len(value.shape) == rank else scalar_of_rank(value, rank) for value in inputs]
        stored_shape = tuple(
            next((size for size in sizes if size != 1), 1)
            for sizes in zip(*(v.stored_shape for v in inputs), strict=True)
        )
        if all(value.is_constant for value in inputs):
            arrays = [np.broadcast_to(value.array, stored_shape) for value in inputs]
            return with_shape(constant(_evaluate(equation, arrays)[0]), aval.shape)
        folded = self._folded(name, inputs, aval)
        if folded is not None:
            return folded
        if name == "div" and _is_invertible(inputs[1]):
            name, inputs = "mul", [inputs[0], _inverse(inputs[1])]
        handles = [self.stored(value) for value in inputs]
        out = self._apply(name, params, handles, inputs[-1].dtype, np.dtype(aval.dtype))
        return Value(out, False, aval.shape, stored_shape, np.dtype(aval.dtype))

    def _folded(self, name: str, inputs: list[Value], aval: Any) -> Value | None:
        """The value of an operation that needs none of its own, None for others."""
        if name == "convert_element_type" and inputs[0].dtype == aval.dtype:
            return inputs[0]
        if name == "select_n" and inputs[0].is_constant and len({*np.ravel(inputs[0].array).tolist()}) == 1:
            return with_shape(inputs[1 + int(np.ravel(inputs[0].array)[0])], aval.shape)
        if name not in NEUTRAL:
            return None
        value, other = inputs if name in ("sub", "div") or inputs[1].is_constant else inputs[::-1]
        if not other.is_constant:
            return None
        if (np.asarray(other.array) == NEUTRAL[name]).all():
            return with_shape(value, aval.shape)
        is_of_channels = all(size == 1 for size in other.stored_shape[:-1])
        if not isinstance(value.array, Convolution) or not is_of_channels or not _is_finite(name, other):
            return None
        return self.as_value(value.array.joined(name, np.ravel(other.array)), aval)

    def _apply(self, name: str, params: dict, handles: list[Handle], dtype: np.dtype, out_dtype: np.dtype) -> Handle:
        ops = self.ops
        if name in ("and", "or", "xor", "not") and dtype.kind != "b":
            raise self.unsupported(f"the operation {name} of integers")
        if name == "round" and params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
            return self._rounded_away(handles[0], dtype)
        if name in UNARY:
            return ops.unary(name, *handles)
        if name in BINARY:
            return ops.binary(name, handles[0], handles[1], dtype)
        match name:
            case "convert_element_type":
                return ops.cast(handles[0], out_dtype)
            case "select_n" if len(handles) == 3:
                return ops.where(handles[0], handles[2], handles[1], dtype)
            case "clamp":
                return ops.binary("min", ops.binary("max", handles[1], handles[0], dtype), handles[2], dtype)
            case "square":
                return ops.binary("mul", handles[0], handles[0], dtype)
            case "integer_pow" if params["y"] > 0:
                return functools.reduce(lambda x, y: ops.binary("mul", x, y, dtype), handles * params["y"])
            case "is_finite":
                most = ops.constant(np.asarray(np.finfo(dtype).max, dtype))
                return ops.binary("le", ops.unary("abs", handles[0]), most, dtype)
        raise self.unsupported(f"the operation {name}")

    def _rounded_away(self, x: Handle, dtype: np.dtype) -> Handle:
        """`x` rounded, halves away from zero; the floor of x + 0.5 would make 1 of 0.49999997."""
        ops, magnitude = self.ops, self.ops.unary("abs", x)
        floor = ops.unary("floor", magnitude)
        fraction = ops.binary("sub", magnitude, floor, dtype)
        carry = ops.cast(ops.binary("ge", fraction, ops.constant(np.asarray(0.5, dtype)), dtype), dtype)
        return ops.binary("mul", ops.unary("sign", x), ops.binary("add", floor, carry, dtype), dtype)

    def _broadcast(self, value: Value, places: Sequence[int], aval: Any) -> Value:
        """The value with its axes at these places of the new shape; broadcast axes keep length 1."""
        stored_shape: list[Size] = [1] * len(aval.shape)
        for axis, place in enumerate(places):
            stored_shape[place] = value.stored_shape[axis]
        if value.is_constant:
            array = np.asarray(value.array).reshape([int(size) for size in stored_shape])
        else:
            array = (
                value.array
                if tuple(stored_shape) == value.stored_shape
                else self.ops.reshape(value.array, self.numbers(stored_shape))
            )
        return Value(array, value.is_constant, aval.shape, tuple(stored_shape), value.dtype)

    def _while(self, params: dict, inputs: list[Value], out: list[Any]) -> list[Value]:
        n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
        test_inputs, body_inputs, start = (
            inputs[:n_test],
            inputs[n_test : n_test + n_body],
            inputs[n_test + n_body :],
        )

        rows = params["cond_jaxpr"].jaxpr.outvars[0].aval.shape  # of pictures, each of which may end at another turn

        def is_running(handles: list[Handle]) -> Handle:
            return self._run_in_loop(params["cond_jaxpr"], test_inputs, handles, out)[0]

        def condition(handles: list[Handle]) -> Handle:
            running = is_running(handles)
            return self.ops.reduce("reduce_or", running, range(len(rows)), np.dtype(bool)) if rows else running

        def body(handles: list[Handle]) -> list[Handle]:
            updated = self._run_in_loop(params["body_jaxpr"], body_inputs, handles, out)
            return self._where_rows(is_running(handles), rows, updated, handles, out) if rows else updated

        handles = self.ops.loop(
            condition,
            body,
            [self.expanded(value) for value in start],
            [static_sizes(aval.shape) for aval in out],
            [np.dtype(aval.dtype) for aval in out],
        )
        return [self.as_value(handle, aval) for handle, aval in zip(handles, out, strict=True)]

    def _where_rows(
        self, running: Handle, rows: tuple[Size, ...], updated: list[Handle], handles: list[Handle], out: list[Any]
    ) -> list[Handle]:
        """The new values of pictures whose loop is still running, the old ones of the others."""
        results = []
        for new, old, aval in zip(updated, handles, out, strict=True):
            mask = self.ops.reshape(running, self.numbers([*rows, *[1] * (len(aval.shape) - len(rows))]))
            results.append(self.ops.where(mask, new, old, np.dtype(aval.dtype)))
        return results

    def _scan(self, params: dict, inputs: list[Value], out: list[Any]) -> list[Value]:
        n_constants, carry = _scan_counts(params)
        if carry or params["reverse"]:
            raise self.unsupported("a scan that carries values from row to row")
        constants, rows = inputs[:n_constants], inputs[n_constants:]
        variables = params["jaxpr"].jaxpr.invars[len(constants) :]

        def body(handles: list[Handle]) -> list[Handle]:
            return self._run_in_loop(params["jaxpr"], constants, handles, [variable.aval for variable in variables])

        def specs(avals: Sequence[Any]) -> list[tuple]:
            return [(static_sizes(aval.shape), np.dtype(aval.dtype)) for aval in avals]

        out_avals = [variable.aval for variable in params["jaxpr"].jaxpr.outvars]
        handles = self.ops.map(
            body,
            [self.expanded(value) for value in rows],
            specs([variable.aval for variable in variables]),
            specs(out_avals),
        )
        return [self.as_value(handle, aval) for handle, aval in zip(handles, out, strict=True)]

    def _run_in_loop(
        self, program: ClosedJaxpr, constants: list[Value], handles: list[Handle], avals: list[Any]
    ) -> list[Handle]:
        """The outputs of a program inside a loop; handles of sizes that it computes are not valid outside."""
        self._sizes.append(dict(self._sizes[-1]))
        try:
            values = [self.as_value(handle, aval) for handle, aval in zip(handles, avals, strict=True)]
            return [self.expanded(value) for value in self.run(program, [*constants, *values])]
        finally:
            self._sizes.pop()


def _evaluate(equation: Any, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    out = equation.primitive.bind(*map(jax.numpy.asarray, arrays), **equation.params)
    return [np.asarray(x) for x in (out if equation.primitive.multiple_results else [out])]


def _is_finite(name: str, value: Value) -> bool:
    return name != "div" or _is_invertible(value)


def _is_invertible(value: Value) -> bool:
    """Whether a value is constant, of floats, and the inverse of each is a finite one."""
    if not value.is_constant or value.dtype != np.float32:
        return False
    with np.errstate(divide="ignore", over="ignore"):
        return bool(np.isfinite(1 / np.asarray(value.array)).all())


def _inverse(value: Value) -> Value:
    return dataclasses.replace(value, array=1 / np.asarray(value.array))


def _dtype(variable: Any) -> np.dtype:
    return np.dtype(variable.aval.dtype)


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that an output depends on."""
    needed = {variable for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    equations = []
    for equation in reversed(jaxpr.eqns):
        if any(variable in needed for variable in equation.outvars):
            equations.append(equation)
            needed |= {variable for variable in equation.invars if not isinstance(variable, Literal)}
    return equations[::-1]


def _scan_counts(params: dict) -> tuple[int, int]:
    """The numbers of constants and carried values of a scan; since jax 0.12 they are in a tree of its inputs."""
    if "ft_in" in params:
        constants, carry, _ = params["ft_in"].unpack()
        return len(list(constants)), len(list(carry))
    return params["num_consts"], params["num_carry"]


def _platform(platforms: Sequence[tuple[str, ...] | None]) -> int:
    """The branch of a choice by platform: that of the CPU, else the one for all others."""
    for index, names in enumerate(platforms):
        if names is not None and "cpu" in names:
            return index
    return list(platforms).index(None)
