"""A traced program told to a format that has no XLA, in a few dozen operations.

What depends on constants alone is worked out here. The rest is told to an `ops.Ops`, one for each format, for any
number of pictures: the batch is a symbol in the program's shapes. Operands of one shape are told in the least that
broadcasting makes of them, so a bias stays a row of numbers.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from jaxkd.export.context import Context
from jaxkd.export.ops import BINARY, UNARY, Handle, Ops
from jaxkd.export.rules import RULES
from jaxkd.export.values import Size, Value, is_static, known, known_sizes, of_rank, reshaped

ELEMENTWISE = (*UNARY, *BINARY, "clamp", "convert_element_type", "integer_pow", "is_finite", "select_n", "square")
SAME = ("copy", "name", "optimization_barrier", "reduce_precision", "stop_gradient")  # what changes nothing here
INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
KNOWN = {"greedy": "jaxkd/ops/nms.py", "shifted_products": "jaxkd/nets/mobilenet.py"}  # told as a whole; see `_call`


def lower(program: ClosedJaxpr, ops: Ops, inputs: Sequence[Handle], batch: Handle) -> list[Handle]:
    """The outputs of a program whose shapes know one symbol, the batch, as handles of `ops`.

    Args:
      program: its inputs all depend on the batch.
      ops: the format.
      inputs: handles of the program's inputs.
      batch: handle of the batch, int32.

    Raises ConfigError where the program has an operation that no format but StableHLO takes.
    """
    lowering = Lowering(ops, batch)
    given = [lowering.wrapped(x, variable.aval) for x, variable in zip(inputs, program.jaxpr.invars, strict=True)]
    return [lowering.whole(value) for value in lowering.run(program, given)]


class Lowering(Context):
    """A walk over a program; what it writes goes to `ops`."""

    def run(self, program: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a program or of a part of one."""
        jaxpr = program.jaxpr
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        values |= {variable: known(np.asarray(x)) for variable, x in zip(jaxpr.constvars, program.consts, strict=True)}

        def read(variable: Any) -> Value:
            if isinstance(variable, Literal):
                return known(np.asarray(variable.val, _dtype(variable)))  # else a bare 1 would be of 64 bits
            return values[variable]

        for equation in _needed(jaxpr):
            found = self._equation(equation, [read(variable) for variable in equation.invars])
            values |= dict(zip(equation.outvars, found, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, params, out = equation.primitive.name, equation.params, [v.aval for v in equation.outvars]
        if name in SAME:
            return inputs
        if name in INLINED:
            return self._call(equation, inputs)
        if name == "platform_index":
            return [known(np.asarray(_platform(params["platforms"]), np.int32))]
        if name == "cond":
            if not inputs[0].known:
                raise self.refusal("a choice between programs")
            return self.run(params["branches"][int(inputs[0].array)], inputs[1:])
        if name in ("while", "scan"):
            return getattr(self, f"_{name}")(params, inputs, out)
        if name in ELEMENTWISE:
            return [self._elementwise(equation, inputs)]
        if name == "broadcast_in_dim":
            return [self._spread(inputs[0], [int(axis) for axis in params["broadcast_dimensions"]], out[0])]
        static = all(is_static(value.shape) for value in (*inputs, *out))
        if static and all(value.known for value in inputs) and name != "dim_as_value":
            return [known(x) for x in _computed(equation, [np.broadcast_to(v.array, v.shape) for v in inputs])]
        rule = RULES.get(name)
        if rule is None:
            raise self.refusal(f"the operation {name}")
        found = rule(self, equation, inputs)
        found = found if isinstance(found, list) else [found]
        return [self.wrapped(handle, aval) for handle, aval in zip(found, out, strict=True)]

    def _call(self, equation: Any, inputs: list[Value]) -> list[Value]:
        """A function within the program; one that the format knows by its name is told as a whole."""
        program = equation.params[INLINED[equation.primitive.name]]
        if not isinstance(program, ClosedJaxpr):  # that of a remat, which has no constants of its own
            program = ClosedJaxpr(program, ())
        name, _, place = (program.jaxpr.debug_info.func_src_info or "").partition(" at ")
        is_ours = name in KNOWN and KNOWN[name] in place.replace("\\", "/")
        found = getattr(self, f"_known_{name}")(equation, inputs) if is_ours else None
        return self.run(program, inputs) if found is None else found

    def _known_greedy(self, equation: Any, inputs: list[Value]) -> list[Value] | None:
        """`ops.nms.greedy`, where the format has a suppression of its own."""
        suppress = getattr(self.ops, "suppress", None)
        boxes, scores, valid, *classes, threshold = inputs
        index, _ = [variable.aval for variable in equation.outvars]
        if suppress is None or not threshold.known or len(index.shape) != 2:
            return None
        of_one = classes[0] if classes else known(np.zeros((1, 1), np.int32))
        limit, count = index.shape[-1], boxes.shape[-2]
        given = [self._leading(value, boxes.shape[0]) for value in (boxes, scores, valid)]
        given.append(self._leading(of_one, boxes.shape[0], count))
        handles = suppress(*given, threshold=float(threshold.array), limit=limit, count=count)
        return [self.wrapped(handle, variable.aval) for handle, variable in zip(handles, equation.outvars, strict=True)]

    def _leading(self, value: Value, batch: Size, count: Size | None = None) -> Handle:
        """The value whole, with its axis of pictures; `count` gives the length of its last one."""
        shape = (batch, *value.shape[1:]) if count is None else (batch, count)
        return self.whole(reshaped(value, shape))

    def _known_shifted_products(self, equation: Any, inputs: list[Value]) -> list[Value] | None:
        """`nets.mobilenet.shifted_products`, which is a depthwise convolution of 3 x 3."""
        x, kernel = inputs
        if not kernel.known:
            return None
        aval = equation.outvars[0].aval
        strides = [-(-int(x.shape[axis]) // int(aval.shape[axis])) for axis in (1, 2)]  # any does for one cell
        weights = np.asarray(kernel.array)[:, :, None]
        out = self.ops.conv(self.whole(x), weights, strides=strides, padding=((1, 1), (1, 1)), groups=weights.shape[-1])
        return [self.wrapped(out, aval)]

    def _elementwise(self, equation: Any, inputs: list[Value]) -> Value:
        name, params, aval = equation.primitive.name, equation.params, equation.outvars[0].aval
        rank = len(aval.shape)
        inputs = [value if len(value.shape) == rank else of_rank(value, rank) for value in inputs]
        held = tuple(
            next((size for size in sizes if size != 1), 1) for sizes in zip(*(v.held for v in inputs), strict=True)
        )
        if all(value.known for value in inputs):
            arrays = [np.broadcast_to(value.array, held) for value in inputs]
            return reshaped(known(_computed(equation, arrays)[0]), aval.shape)
        handles = [self.least(value) for value in inputs]
        out = self._cellwise(name, params, handles, inputs[-1].dtype, np.dtype(aval.dtype))
        return Value(out, False, aval.shape, held, np.dtype(aval.dtype))

    def _cellwise(self, name: str, params: dict, handles: list[Handle], dtype: np.dtype, made: np.dtype) -> Handle:
        ops = self.ops
        if name in ("and", "or", "xor", "not") and dtype.kind != "b":
            raise self.refusal(f"the operation {name} of integers")
        if name == "round" and params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
            return self._rounded_away(handles[0], dtype)
        if name in UNARY:
            return ops.unary(name, *handles)
        if name in BINARY:
            return ops.binary(name, handles[0], handles[1], dtype)
        match name:
            case "convert_element_type":
                return ops.cast(handles[0], made)
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
        raise self.refusal(f"the operation {name}")

    def _rounded_away(self, x: Handle, dtype: np.dtype) -> Handle:
        """`x` in whole numbers, halves away from zero; to add 0.5 and cut off would make 1 of 0.49999997."""
        ops, size = self.ops, self.ops.unary("abs", x)
        whole = ops.unary("floor", size)
        rest = ops.binary("sub", size, whole, dtype)
        up = ops.cast(ops.binary("ge", rest, ops.constant(np.asarray(0.5, dtype)), dtype), dtype)
        return ops.binary("mul", ops.unary("sign", x), ops.binary("add", whole, up, dtype), dtype)

    def _spread(self, value: Value, places: Sequence[int], aval: Any) -> Value:
        """The value with its axes at these places; what repeats is not written out."""
        held: list[Size] = [1] * len(aval.shape)
        for axis, place in enumerate(places):
            held[place] = value.held[axis]
        if value.known:
            array = np.asarray(value.array).reshape([int(size) for size in held])
        else:
            array = value.array if tuple(held) == value.held else self.ops.reshape(value.array, self.numbers(held))
        return Value(array, value.known, aval.shape, tuple(held), value.dtype)

    def _while(self, params: dict, inputs: list[Value], out: list[Any]) -> list[Value]:
        tested, walked = params["cond_nconsts"], params["body_nconsts"]
        of_test, of_body, start = inputs[:tested], inputs[tested : tested + walked], inputs[tested + walked :]

        rows = params["cond_jaxpr"].jaxpr.outvars[0].aval.shape  # of pictures, each of which ends in its own time

        def going(handles: list[Handle]) -> Handle:
            return self._inner(params["cond_jaxpr"], of_test, handles, out)[0]

        def condition(handles: list[Handle]) -> Handle:
            found = going(handles)
            return self.ops.reduce("reduce_or", found, range(len(rows)), np.dtype(bool)) if rows else found

        def body(handles: list[Handle]) -> list[Handle]:
            made = self._inner(params["body_jaxpr"], of_body, handles, out)
            return self._where_rows(going(handles), rows, made, handles, out) if rows else made

        handles = self.ops.loop(
            condition,
            body,
            [self.whole(value) for value in start],
            [known_sizes(aval.shape) for aval in out],
            [np.dtype(aval.dtype) for aval in out],
        )
        return [self.wrapped(handle, aval) for handle, aval in zip(handles, out, strict=True)]

    def _where_rows(
        self, going: Handle, rows: tuple[Size, ...], made: list[Handle], handles: list[Handle], out: list[Any]
    ) -> list[Handle]:
        """What was made where `going` of the pictures says so, and what was there elsewhere."""
        found = []
        for new, old, aval in zip(made, handles, out, strict=True):
            mask = self.ops.reshape(going, self.numbers([*rows, *[1] * (len(aval.shape) - len(rows))]))
            found.append(self.ops.where(mask, new, old, np.dtype(aval.dtype)))
        return found

    def _scan(self, params: dict, inputs: list[Value], out: list[Any]) -> list[Value]:
        constants, carried = _scan_counts(params)
        if carried or params["reverse"]:
            raise self.refusal("a loop over rows that hands on what it found")
        given, rows = inputs[:constants], inputs[constants:]
        variables = params["jaxpr"].jaxpr.invars[len(given) :]

        def body(handles: list[Handle]) -> list[Handle]:
            return self._inner(params["jaxpr"], given, handles, [variable.aval for variable in variables])

        def described(avals: Sequence[Any]) -> list[tuple]:
            return [(known_sizes(aval.shape), np.dtype(aval.dtype)) for aval in avals]

        made = [variable.aval for variable in params["jaxpr"].jaxpr.outvars]
        handles = self.ops.map(
            body,
            [self.whole(value) for value in rows],
            described([variable.aval for variable in variables]),
            described(made),
        )
        return [self.wrapped(handle, aval) for handle, aval in zip(handles, out, strict=True)]

    def _inner(self, program: ClosedJaxpr, given: list[Value], handles: list[Handle], avals: list[Any]) -> list[Handle]:
        """A program inside a loop; sizes that are worked out there are not known outside."""
        self._sizes.append(dict(self._sizes[-1]))
        try:
            values = [self.wrapped(handle, aval) for handle, aval in zip(handles, avals, strict=True)]
            return [self.whole(value) for value in self.run(program, [*given, *values])]
        finally:
            self._sizes.pop()


def _computed(equation: Any, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    out = equation.primitive.bind(*map(jax.numpy.asarray, arrays), **equation.params)
    return [np.asarray(x) for x in (out if equation.primitive.multiple_results else [out])]


def _dtype(variable: Any) -> np.dtype:
    return np.dtype(variable.aval.dtype)


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that an output depends on."""
    wanted = {variable for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if any(variable in wanted for variable in equation.outvars):
            kept.append(equation)
            wanted |= {variable for variable in equation.invars if not isinstance(variable, Literal)}
    return kept[::-1]


def _scan_counts(params: dict) -> tuple[int, int]:
    """How many constants and carried values a scan has; since jax 0.12 in a tree of its inputs."""
    if "ft_in" in params:
        constants, carried, _ = params["ft_in"].unpack()
        return len(list(constants)), len(list(carried))
    return params["num_consts"], params["num_carry"]


def _platform(platforms: Sequence[tuple[str, ...] | None]) -> int:
    """The branch of a choice by platform: that of the CPU, else the one for all others."""
    for index, names in enumerate(platforms):
        if names is not None and "cpu" in names:
            return index
    return list(platforms).index(None)
