"""A traced program told to a format that has no XLA, in a few dozen operations.

What depends on constants alone is worked out here. The rest is told to an `Ops`, one for each format, for any number of
pictures: the batch is a symbol in the program's shapes. Operands of one shape are told in the least that broadcasting
makes of them, so a bias stays a row of numbers.
"""

import ast
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxkd.errors import ConfigError

Handle = Any  # of the format: the name of a tensor, or a tensor
Size = Any  # an integer, or an expression of the batch
Number = Any  # an integer, or the handle of one

UNARY = (
    "abs", "ceil", "exp", "floor", "log", "logistic", "neg", "not", "round", "rsqrt", "sign", "sqrt", "tanh",
)  # fmt: skip
BINARY = (
    "add", "and", "div", "eq", "ge", "gt", "le", "lt", "max", "min", "mul", "ne", "or", "pow", "rem", "sub", "xor",
)  # fmt: skip
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
REDUCTIONS = ("reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_sum")


class Ops(Protocol):
    """What a format has to offer. Handles are of whole tensors; a `Number` in a shape may be the handle of one."""

    format: str  # its name, for messages

    def constant(self, value: np.ndarray) -> Handle:
        """A tensor with this value."""
        ...

    def unary(self, name: str, x: Handle) -> Handle:
        """One of UNARY, cell by cell."""
        ...

    def binary(self, name: str, x: Handle, y: Handle, dtype: np.dtype) -> Handle:
        """One of BINARY, cell by cell, with NumPy's broadcasting; `dtype` is that of the operands.

        Integers are divided towards zero.
        """
        ...

    def where(self, condition: Handle, x: Handle, y: Handle, dtype: np.dtype) -> Handle:
        """Cells of `x` where the condition holds, of `y` elsewhere, with NumPy's broadcasting."""
        ...

    def cast(self, x: Handle, dtype: np.dtype) -> Handle:
        """The same numbers in another dtype; fractions are cut off."""
        ...

    def reshape(self, x: Handle, shape: Sequence[Number]) -> Handle:
        """The same cells in another shape."""
        ...

    def transpose(self, x: Handle, order: Sequence[int]) -> Handle:
        """The axes in another order."""
        ...

    def expand(self, x: Handle, shape: Sequence[Number]) -> Handle:
        """Axes of length 1 repeated up to this shape."""
        ...

    def concatenate(self, parts: Sequence[Handle], axis: int) -> Handle:
        """The parts behind each other."""
        ...

    def slice(self, x: Handle, start: Sequence[Number], stop: Sequence[Number], step: Sequence[int]) -> Handle:
        """A part of `x`; none of the numbers is negative."""
        ...

    def pad(self, x: Handle, before: Sequence[Number], after: Sequence[Number], value: Handle) -> Handle:
        """`x` with `value` around it."""
        ...

    def reverse(self, x: Handle, axes: Sequence[int]) -> Handle:
        """These axes backwards."""
        ...

    def reduce(self, name: str, x: Handle, axes: Sequence[int], dtype: np.dtype) -> Handle:
        """One of REDUCTIONS; the axes are gone."""
        ...

    def cumsum(self, x: Handle, axis: int, reverse: bool) -> Handle:
        """Sums up to each cell."""
        ...

    def matmul(self, x: Handle, y: Handle) -> Handle:
        """Products of matrices [... n m] and [... m k], with equal leading axes; or any x with a y [m k]."""
        ...

    def conv(
        self, x: Handle, kernel: np.ndarray, *, strides: Sequence[int], padding: Sequence[tuple[int, int]], groups: int
    ) -> Handle:
        """The convolution of [b h w c] by a kernel [h w c/groups d]."""
        ...

    def take(self, x: Handle, index: Handle) -> Handle:
        """x[index] along the first axis, for an index [n] within its bounds."""
        ...

    def put(self, x: Handle, index: Handle, values: Handle, dtype: np.dtype) -> Handle:
        """`x` [n] with the values [m] at an index [m] within its bounds; those at equal places may fall anyhow."""
        ...

    def top_k(self, x: Handle, k: int) -> tuple[Handle, Handle]:
        """The largest k along the last axis, and their places (int32); of equal ones the first comes first."""
        ...

    def arange(self, count: Number) -> Handle:
        """int32 numbers from 0."""
        ...

    def loop(
        self, condition: Callable, body: Callable, start: Sequence[Handle], shapes: Sequence[tuple], dtypes: Sequence
    ) -> list[Handle]:
        """What `body` makes of `start` as often as `condition` holds; both take and give lists of handles."""
        ...

    def map(
        self, body: Callable, rows: Sequence[Handle], count: Number, given: Sequence[tuple], made: Sequence[tuple]
    ) -> list[Handle]:
        """`body` for each row of the tensors, and what it makes as rows again.

        `given` and `made` are shape and dtype of each row.
        """
        ...


@dataclass(frozen=True)
class Value:
    """A tensor of the program."""

    array: Any  # NumPy's where it is known, else a handle
    known: bool
    shape: tuple[Size, ...]  # as the program has it
    held: tuple[Size, ...]  # as `array` has it: 1 where an axis only repeats
    dtype: np.dtype


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


class Lowering:
    """A walk over a program; what it writes goes to `ops`."""

    def __init__(self, ops: Ops, batch: Handle):
        self.ops = ops
        self._sizes: list[dict[str, Handle]] = [{"b": batch}]  # by expression, for each loop that the walk is in

    def run(self, program: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a program or of a part of one."""
        jaxpr = program.jaxpr
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        values |= {variable: known(np.asarray(x)) for variable, x in zip(jaxpr.constvars, program.consts, strict=True)}

        def read(variable: Any) -> Value:
            if isinstance(variable, Literal):
                return known(np.asarray(variable.val, variable.aval.dtype))  # else a bare 1 would be of 64 bits
            return values[variable]

        for equation in _needed(jaxpr):
            found = self._equation(equation, [read(variable) for variable in equation.invars])
            values |= dict(zip(equation.outvars, found, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def wrapped(self, handle: Handle, aval: Any) -> Value:
        """A handle as the value of a variable."""
        return Value(handle, False, aval.shape, aval.shape, np.dtype(aval.dtype))

    def whole(self, value: Value) -> Handle:
        """The handle of a value in its full shape."""
        if value.known and value.held != value.shape and _is_static(value.shape):
            return self.ops.constant(np.broadcast_to(value.array, value.shape))
        handle = self.least(value)
        return handle if value.held == value.shape else self.ops.expand(handle, self.numbers(value.shape))

    def least(self, value: Value) -> Handle:
        """The handle of a value as it is held."""
        return self.ops.constant(value.array) if value.known else value.array

    def numbers(self, shape: Sequence[Size]) -> list[Number]:
        """The sizes as integers and handles of them."""
        return [size if isinstance(size, int) else self.number(size) for size in map(_plain, shape)]

    def number(self, size: Size) -> Handle:
        """The handle of an expression of the batch, int32."""
        there, text = self._sizes[-1], str(size)
        if text not in there:
            there[text] = self._evaluated(ast.parse(text, mode="eval").body)
        return there[text]

    def _evaluated(self, node: ast.expr) -> Handle:
        match node:
            case ast.Name(id=name):
                return self._sizes[-1][name]
            case ast.Constant(value=int(value)):
                return self.ops.constant(np.int32(value))
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return self.ops.unary("neg", self._evaluated(inner))
            case ast.BinOp(left=left, op=op, right=right):
                name = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}.get(type(op))
                arguments = [left, right]
            case ast.Call(func=ast.Name(id="floordiv" | "mod" as name), args=[left, right]):
                return self._divided(self._evaluated(left), self._evaluated(right))[name]
            case ast.Call(func=ast.Name(id="max" | "min" as name), args=arguments):
                pass
            case _:
                name, arguments = None, []
        if name is None:
            raise self._refusal(f"a size of {ast.unparse(node)}")
        handles = [self._evaluated(argument) for argument in arguments]
        return functools.reduce(lambda x, y: self.ops.binary(name, x, y, np.dtype(np.int32)), handles)

    def _divided(self, x: Handle, y: Handle) -> dict[str, Handle]:
        """Quotient and remainder by a y above 0, rounded down, as sizes are."""
        quotient = self._int("div", x, y)
        below = self.ops.cast(self._int("lt", x, self._int("mul", quotient, y)), np.dtype(np.int32))
        quotient = self._int("sub", quotient, below)
        return {"floordiv": quotient, "mod": self._int("sub", x, self._int("mul", quotient, y))}

    def _refusal(self, what: str) -> ConfigError:
        return ConfigError(f"{self.ops.format} cannot hold {what}, which this detector has; use --format=stablehlo.")

    def _equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, params, out = equation.primitive.name, equation.params, [v.aval for v in equation.outvars]
        if name in SAME:
            return inputs
        if name in INLINED:
            return self._call(equation, inputs)
        if name == "platform_index":
            return [known(np.int32(_platform(params["platforms"])))]
        if name == "cond":
            if not inputs[0].known:
                raise self._refusal("a choice between programs")
            return self.run(params["branches"][int(inputs[0].array)], inputs[1:])
        if name in ("while", "scan"):
            return getattr(self, f"_{name}")(params, inputs, out)
        if name in ELEMENTWISE:
            return [self._elementwise(equation, inputs)]
        if name == "broadcast_in_dim":
            return [self._spread(inputs[0], params["broadcast_dimensions"], out[0])]
        static = all(_is_static(value.shape) for value in (*inputs, *out))
        if static and all(value.known for value in inputs) and name != "dim_as_value":
            return [known(x) for x in _computed(equation, [np.broadcast_to(v.array, v.shape) for v in inputs])]
        rule = getattr(self, f"_{'reduce' if name in REDUCTIONS else name}", None)
        if rule is None:
            raise self._refusal(f"the operation {name}")
        found = rule(equation, inputs)
        found = found if isinstance(found, list) else [found]
        return [self.wrapped(handle, aval) for handle, aval in zip(found, out, strict=True)]

    def _call(self, equation: Any, inputs: list[Value]) -> list[Value]:
        """A function within the program; one that the format knows by its name is told as a whole."""
        program = equation.params[INLINED[equation.primitive.name]]
        name = equation.params.get("name") or program.jaxpr.debug_info.func_src_info.split(" ")[0]
        told = getattr(self, f"_known_{name}", None)
        found = told(equation, inputs) if told else None
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
        handles = suppress(*given, self._leading(of_one, boxes.shape[0], count), float(threshold.array), limit, count)
        return [self.wrapped(handle, variable.aval) for handle, variable in zip(handles, equation.outvars, strict=True)]

    def _leading(self, value: Value, batch: Size, count: Size | None = None) -> Handle:
        """The value whole, with its axis of pictures; `count` gives the length of its last one."""
        shape = (batch, *value.shape[1:]) if count is None else (batch, count)
        return self.whole(_reshaped(value, shape))

    def _known_shifted_products(self, equation: Any, inputs: list[Value]) -> list[Value] | None:
        """`nets.mobilenet.shifted_products`, which is a depthwise convolution of 3 x 3."""
        x, kernel = inputs
        if not kernel.known:
            return None
        aval = equation.outvars[0].aval
        stride = -(-int(x.shape[1]) // int(aval.shape[1]))
        weights = np.asarray(kernel.array)[:, :, None]
        out = self.ops.conv(
            self.whole(x), weights, strides=(stride, stride), padding=((1, 1), (1, 1)), groups=weights.shape[-1]
        )
        return [self.wrapped(out, aval)]

    def _elementwise(self, equation: Any, inputs: list[Value]) -> Value:
        name, params, aval = equation.primitive.name, equation.params, equation.outvars[0].aval
        rank = len(aval.shape)
        inputs = [value if len(value.shape) == rank else _of_rank(value, rank) for value in inputs]
        held = tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*(v.held for v in inputs)))
        if all(value.known for value in inputs):
            arrays = [np.broadcast_to(value.array, held) for value in inputs]
            return _reshaped(known(_computed(equation, arrays)[0]), aval.shape)
        handles = [self.least(value) for value in inputs]
        out = self._cellwise(name, params, handles, inputs[-1].dtype, np.dtype(aval.dtype))
        return Value(out, False, aval.shape, held, np.dtype(aval.dtype))

    def _cellwise(self, name: str, params: dict, handles: list[Handle], dtype: np.dtype, made: np.dtype) -> Handle:
        ops = self.ops
        if name in UNARY:
            return ops.unary(name, *handles)
        if name in BINARY:
            return ops.binary(name, *handles, dtype)
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
        raise self._refusal(f"the operation {name}")

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
            [_known_sizes(aval.shape) for aval in out],
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
        if params["num_carry"] or params["reverse"]:
            raise self._refusal("a loop over rows that hands on what it found")
        given, rows = inputs[: params["num_consts"]], inputs[params["num_consts"] :]
        variables = params["jaxpr"].jaxpr.invars[len(given) :]

        def body(handles: list[Handle]) -> list[Handle]:
            return self._inner(params["jaxpr"], given, handles, [variable.aval for variable in variables])

        def described(avals: Sequence[Any]) -> list[tuple]:
            return [(_known_sizes(aval.shape), np.dtype(aval.dtype)) for aval in avals]

        made = [variable.aval for variable in params["jaxpr"].jaxpr.outvars]
        (count,) = self.numbers([params["length"]])
        handles = self.ops.map(
            body,
            [self.whole(value) for value in rows],
            count,
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

    def _dim_as_value(self, equation: Any, inputs: list[Value]) -> Handle:
        return self.number(equation.params["dim"])

    def _iota(self, equation: Any, inputs: list[Value]) -> Handle:
        params, aval = equation.params, equation.outvars[0].aval
        (count,) = self.numbers([aval.shape[params["dimension"]]])
        handle = self.ops.arange(count)
        if aval.dtype != np.int32:
            handle = self.ops.cast(handle, np.dtype(aval.dtype))
        held: list[Number] = [1] * len(aval.shape)
        held[params["dimension"]] = count
        handle = self.ops.reshape(handle, held)
        return self.ops.expand(handle, self.numbers(aval.shape)) if len(held) > 1 else handle

    def _reshape(self, equation: Any, inputs: list[Value]) -> Handle:
        return self.ops.reshape(self.whole(inputs[0]), self.numbers(equation.outvars[0].aval.shape))

    _squeeze = _expand_dims = _reshape

    def _transpose(self, equation: Any, inputs: list[Value]) -> Handle:
        return self.ops.transpose(self.whole(inputs[0]), equation.params["permutation"])

    def _concatenate(self, equation: Any, inputs: list[Value]) -> Handle:
        return self.ops.concatenate([self.whole(value) for value in inputs], equation.params["dimension"])

    def _stack(self, equation: Any, inputs: list[Value]) -> Handle:
        axis, shape = equation.params["axis"], list(inputs[0].shape)
        shape.insert(axis, 1)
        parts = [self.ops.reshape(self.whole(value), self.numbers(shape)) for value in inputs]
        return self.ops.concatenate(parts, axis)

    def _tile(self, equation: Any, inputs: list[Value]) -> Handle:
        before, between = [], []
        for size, times in zip(inputs[0].shape, equation.params["reps"], strict=True):
            before += [1, size]
            between += [times, size]
        out = self.ops.reshape(self.whole(inputs[0]), self.numbers(before))
        out = self.ops.expand(out, self.numbers(between))
        return self.ops.reshape(out, self.numbers(equation.outvars[0].aval.shape))

    def _split(self, equation: Any, inputs: list[Value]) -> list[Handle]:
        axis, x, start, parts = equation.params["axis"], self.whole(inputs[0]), 0, []
        for size in equation.params["sizes"]:
            low, high = [0] * len(inputs[0].shape), list(inputs[0].shape)
            low[axis], high[axis] = start, start + size
            parts.append(self.ops.slice(x, low, self.numbers(high), [1] * len(low)))
            start += size
        return parts

    def _slice(self, equation: Any, inputs: list[Value]) -> Handle:
        params = equation.params
        start, stop = self.numbers(params["start_indices"]), self.numbers(params["limit_indices"])
        return self.ops.slice(self.whole(inputs[0]), start, stop, params["strides"] or [1] * len(start))

    def _dynamic_slice(self, equation: Any, inputs: list[Value]) -> Handle:
        x, start = inputs[0], inputs[1:]
        sizes, low, high = equation.params["slice_sizes"], [], []
        for value, length, size in zip(start, x.shape, sizes, strict=True):
            first = self._held_inside(self.whole(value), length - size)
            low.append(first)
            high.append(self._int("add", first, self._of_size(size)))
        return self.ops.slice(self.whole(x), low, high, [1] * len(low))

    def _pad(self, equation: Any, inputs: list[Value]) -> Handle:
        before, after, between = zip(*equation.params["padding_config"], strict=True)
        if any(between) or any(isinstance(size, int) and size < 0 for size in (*before, *after)):
            raise self._refusal("a padding between cells, or a negative one")
        return self.ops.pad(self.whole(inputs[0]), self.numbers(before), self.numbers(after), self.whole(inputs[1]))

    def _rev(self, equation: Any, inputs: list[Value]) -> Handle:
        return self.ops.reverse(self.whole(inputs[0]), equation.params["dimensions"])

    def _reduce(self, equation: Any, inputs: list[Value]) -> Handle:
        axes = equation.params["axes"]
        return self.ops.reduce(equation.primitive.name, self.whole(inputs[0]), axes, inputs[0].dtype)

    def _cumsum(self, equation: Any, inputs: list[Value]) -> Handle:
        return self.ops.cumsum(self.whole(inputs[0]), equation.params["axis"], equation.params["reverse"])

    def _top_k(self, equation: Any, inputs: list[Value]) -> list[Handle]:
        if equation.params.get("axis", -1) not in (-1, len(inputs[0].shape) - 1):
            raise self._refusal("the largest along an axis that is not the last")
        return list(self.ops.top_k(self.whole(inputs[0]), equation.params["k"]))

    def _sort(self, equation: Any, inputs: list[Value]) -> list[Handle]:
        """The rows of the last axis in rising order of the first operand."""
        params, shape = equation.params, inputs[0].shape
        if params["num_keys"] != 1 or params["dimension"] != len(shape) - 1 or not isinstance(_plain(shape[-1]), int):
            raise self._refusal("a sort by several keys or not along the last axis")
        key, *others = [self.whole(value) for value in inputs]
        values, place = self.ops.top_k(self.ops.unary("neg", key), int(shape[-1]))
        return [self.ops.unary("neg", values), *(self._along_last(other, place, shape) for other in others)]

    def _along_last(self, x: Handle, place: Handle, shape: Sequence[Size]) -> Handle:
        """x[..., place] for places of each row."""
        rows = self.ops.arange(self.numbers([math.prod(shape[:-1])])[0])
        rows = self._int("mul", rows, self._of_size(shape[-1]))
        rows = self.ops.reshape(rows, [*self.numbers(shape[:-1]), 1])
        index = self.ops.reshape(self._int("add", rows, place), [-1])
        return self.ops.reshape(self.ops.take(self.ops.reshape(x, [-1]), index), self.numbers(shape))

    def _dot_general(self, equation: Any, inputs: list[Value]) -> Handle:
        (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
        left, right = inputs
        if len(left_sum) == 1 and left_sum[0] == len(left.shape) - 1 and not left_batch and right_sum == (0,):
            if len(right.shape) == 2:
                return self.ops.matmul(self.whole(left), self.whole(right))
        left_free, left_handle = self._as_matrices(left, left_batch, left_sum, last="sum")
        right_free, right_handle = self._as_matrices(right, right_batch, right_sum, last="free")
        shape = [left.shape[axis] for axis in (*left_batch, *left_free)] + [right.shape[axis] for axis in right_free]
        return self.ops.reshape(self.ops.matmul(left_handle, right_handle), self.numbers(shape))

    def _as_matrices(self, value: Value, batch: Sequence[int], summed: Sequence[int], *, last: str):
        """The axes that are neither, and the handle of [*batch free sum] or [*batch sum free]."""
        free = [axis for axis in range(len(value.shape)) if axis not in (*batch, *summed)]
        parts = (free, summed) if last == "sum" else (summed, free)
        handle = self.whole(value)
        order = [*batch, *parts[0], *parts[1]]
        if order != sorted(order):
            handle = self.ops.transpose(handle, order)
        sides = [math.prod(value.shape[axis] for axis in part) for part in parts]
        return free, self.ops.reshape(handle, self.numbers([*(value.shape[axis] for axis in batch), *sides]))

    def _conv_general_dilated(self, equation: Any, inputs: list[Value]) -> Handle:
        params, (x, kernel) = equation.params, inputs
        numbers = params["dimension_numbers"]
        usual = (
            numbers.lhs_spec == (0, 3, 1, 2) and numbers.rhs_spec == (3, 2, 0, 1) and numbers.out_spec == (0, 3, 1, 2)
        )
        dilated = set(params["lhs_dilation"]) | set(params["rhs_dilation"]) != {1}
        if not usual or dilated or params["batch_group_count"] != 1 or not kernel.known:
            raise self._refusal("a convolution that is dilated or not of [b h w c]")
        return self.ops.conv(
            self.whole(x),
            np.broadcast_to(kernel.array, kernel.shape),
            strides=params["window_strides"],
            padding=params["padding"],
            groups=params["feature_group_count"],
        )

    def _gather(self, equation: Any, inputs: list[Value]) -> Handle:
        """A gather as a look-up of rows: all axes that are looked up in are made one, with one number for each row."""
        (x, index), params = inputs, equation.params
        numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
        gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        windows = [axis for axis in range(len(x.shape)) if axis not in gone]
        whole = [axis for axis in windows if axis not in numbers.start_index_map and sizes[axis] == x.shape[axis]]
        looked = [axis for axis in range(len(x.shape)) if axis not in whole]
        walked = [axis for axis in windows if axis in looked]  # windows that begin somewhere
        lead, place = index.shape[:-1], Places(self, index, x.shape, looked, walked, sizes)
        batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
        linear, there = place.linear(numbers.start_index_map, batching, checked="FILL" in str(params["mode"]))
        table = self.whole(x)
        order = [*looked, *whole]
        if order != sorted(order):
            table = self.ops.transpose(table, order)
        rows = [x.shape[axis] for axis in whole]
        table = self.ops.reshape(table, self.numbers([math.prod(x.shape[axis] for axis in looked), *rows]))
        found = self.ops.take(table, self.ops.reshape(linear, [-1]))
        shape = [*lead, *(sizes[axis] for axis in walked), *rows]
        found = self.ops.reshape(found, self.numbers(shape))
        if there is not None:
            there = self.ops.reshape(there, self.numbers([*lead, *[1] * (len(shape) - len(lead))]))
            fill = self.ops.constant(_filling(params["fill_value"], x.dtype))
            found = self.ops.where(there, found, fill, x.dtype)
        made = {axis: len(lead) + position for position, axis in enumerate([*walked, *whole])}
        from_windows = [made[axis] for axis in windows]
        order, plain = [], iter(range(len(lead)))
        spots = dict(zip(numbers.offset_dims, from_windows, strict=True))
        for axis in range(len(shape)):
            order.append(spots[axis] if axis in spots else next(plain))
        return found if order == sorted(order) else self.ops.transpose(found, order)

    def _scatter(self, equation: Any, inputs: list[Value]) -> Handle:
        """A scatter as values put into one row of cells, with one more for those that fall outside."""
        (x, index, updates), params = inputs, equation.params
        numbers = params["dimension_numbers"]
        gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        windows = [axis for axis in range(len(x.shape)) if axis not in gone]
        lead = index.shape[:-1]
        spots = list(numbers.update_window_dims)
        sizes = [1] * len(x.shape)
        for axis, spot in zip(windows, spots, strict=True):
            sizes[axis] = updates.shape[spot]
        place = Places(self, index, x.shape, list(range(len(x.shape))), windows, sizes)
        batching = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
        linear, there = place.linear(numbers.scatter_dims_to_operand_dims, batching, checked=True)
        values = self.whole(updates)
        plain = [axis for axis in range(len(updates.shape)) if axis not in spots]
        if [*plain, *spots] != sorted([*plain, *spots]):
            values = self.ops.transpose(values, [*plain, *spots])
        cells = self._of_size(math.prod(x.shape))
        if there is not None:
            there = self.ops.reshape(there, self.numbers([*lead, *[1] * len(windows)]))
            linear = self.ops.where(there, linear, cells, np.dtype(np.int32))
        table = self.ops.reshape(self.whole(x), [-1])
        table = self.ops.concatenate([table, self.ops.constant(np.zeros(1, x.dtype))], 0)
        flat = [self.ops.reshape(handle, [-1]) for handle in (linear, values)]
        table = self.ops.slice(self.ops.put(table, *flat, x.dtype), [0], [cells], [1])
        return self.ops.reshape(table, self.numbers(x.shape))

    def _int(self, name: str, x: Handle, y: Handle) -> Handle:
        return self.ops.binary(name, x, y, np.dtype(np.int32))

    def _of_size(self, size: Size) -> Handle:
        (number,) = self.numbers([size])
        return self.ops.constant(np.int32(number)) if isinstance(number, int) else number

    def _held_inside(self, x: Handle, last: Size) -> Handle:
        """`x` held between 0 and `last`."""
        return self._int("min", self._int("max", x, self.ops.constant(np.int32(0))), self._of_size(last))


@dataclass(frozen=True)
class Places:
    """Where a gather or scatter looks: windows of `sizes` in a tensor of `shape`, one for each row of the index.

    Attributes:
      looked: the axes that are numbered through.
      walked: those of them along which a window lies.
    """

    walk: Lowering
    index: Value  # [*lead k]
    shape: Sequence[Size]
    looked: Sequence[int]
    walked: Sequence[int]
    sizes: Sequence[int]

    def linear(self, named: Sequence[int], batching: dict[int, int], *, checked: bool) -> tuple[Handle, Handle | None]:
        """The numbers of the cells [*lead *walked], and which windows lie inside [*lead], None where all do.

        Args:
          named: the axis of each column of the index.
          batching: for axes that have their own rows of the index, the place of these among the index' axes.
          checked: whether windows outside are marked; they are moved inside in any case.
        """
        walk, lead = self.walk, self.index.shape[:-1]
        rank, total, there = len(lead) + len(self.walked), None, None
        table = walk.whole(self.index)
        for axis in self.looked:
            held: list[Size] = [1] * rank
            first = None
            if axis in batching:
                held[batching[axis]] = lead[batching[axis]]
                first = walk.ops.reshape(walk.ops.arange(walk.numbers([self.shape[axis]])[0]), walk.numbers(held))
            elif axis in named:
                start = self._column(table, list(named).index(axis))
                last = self.shape[axis] - self.sizes[axis]
                inside = walk._held_inside(start, last)
                if checked:
                    here = walk._int("eq", inside, start)
                    there = here if there is None else walk.ops.binary("and", there, here, np.dtype(bool))
                held[: len(lead)] = lead
                first = walk.ops.reshape(inside, walk.numbers(held))
            if axis in self.walked:
                along: list[Size] = [1] * rank
                along[len(lead) + list(self.walked).index(axis)] = self.sizes[axis]
                cells = walk.ops.reshape(walk.ops.arange(walk.numbers([self.sizes[axis]])[0]), walk.numbers(along))
                first = cells if first is None else walk._int("add", first, cells)
            if first is None:
                continue
            pitch = math.prod(self.shape[later] for later in self.looked if later > axis)
            part = first if pitch == 1 else walk._int("mul", first, walk._of_size(pitch))
            total = part if total is None else walk._int("add", total, part)
        shape = [*lead, *(self.sizes[axis] for axis in self.walked)]
        total = walk.ops.constant(np.zeros([1] * rank, np.int32)) if total is None else total
        return walk.ops.expand(total, walk.numbers(shape)), there

    def _column(self, table: Handle, place: int) -> Handle:
        """One column of the index, int32 [*lead]."""
        lead = self.index.shape[:-1]
        low, high = [0] * len(lead) + [place], [*lead, place + 1]
        column = self.walk.ops.slice(table, low, self.walk.numbers(high), [1] * len(low))
        column = self.walk.ops.reshape(column, self.walk.numbers(lead))
        return column if self.index.dtype == np.int32 else self.walk.ops.cast(column, np.dtype(np.int32))


def known(array: np.ndarray) -> Value:
    """A value that no input changes."""
    array = np.asarray(array)
    return Value(array, True, array.shape, array.shape, array.dtype)


def _reshaped(value: Value, shape: tuple[Size, ...]) -> Value:
    """The value with another full shape."""
    return Value(value.array, value.known, shape, value.held, value.dtype)


def _of_rank(value: Value, rank: int) -> Value:
    """A scalar among tensors."""
    ones = (1,) * rank
    return Value(np.reshape(value.array, ones) if value.known else value.array, value.known, ones, ones, value.dtype)


def _computed(equation: Any, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    out = equation.primitive.bind(*map(jax.numpy.asarray, arrays), **equation.params)
    return [np.asarray(x) for x in (out if equation.primitive.multiple_results else [out])]


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that an output depends on."""
    wanted = {variable for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if any(variable in wanted for variable in equation.outvars):
            kept.append(equation)
            wanted |= {variable for variable in equation.invars if not isinstance(variable, Literal)}
    return kept[::-1]


def _platform(platforms: Sequence[tuple[str, ...] | None]) -> int:
    """The branch of a choice by platform: that of the CPU, else the one for all others."""
    for index, names in enumerate(platforms):
        if names is not None and "cpu" in names:
            return index
    return list(platforms).index(None)


def _plain(size: Size) -> Size:
    return int(size) if isinstance(size, (int, np.integer)) else size


def _is_static(shape: Sequence[Size]) -> bool:
    return all(isinstance(_plain(size), int) for size in shape)


def _known_sizes(shape: Sequence[Size]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in map(_plain, shape))


def _filling(value: Any, dtype: np.dtype) -> np.ndarray:
    """What a gather gives beyond the bounds."""
    if value is not None:
        return np.asarray(value, dtype)
    if np.issubdtype(dtype, np.floating):
        return np.asarray(np.nan, dtype)
    if dtype == bool:
        return np.asarray(True)
    return np.asarray(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max, dtype)
