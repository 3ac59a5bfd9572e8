"""What the lowering rules work with: a format's operations, and values and sizes as handles of that format."""

import ast
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxkd.errors import ConfigError
from jaxkd.export.ops import Handle, Number, Ops
from jaxkd.export.values import Convolution, Size, Value, as_int, is_static, part_of


class Context:
    """Values and sizes of a program as handles of `ops`, the format that they are written to."""

    def __init__(self, ops: Ops, batch: Handle):
        self.ops = ops
        # By expression; one dict for each loop around the current equation.
        self._sizes: list[dict[str, Handle]] = [{"b": batch}]

    def as_value(self, handle: Handle, aval: Any) -> Value:
        """A handle as the value of a variable with this shape and dtype."""
        return Value(handle, False, aval.shape, aval.shape, np.dtype(aval.dtype))

    def expanded(self, value: Value) -> Handle:
        """The handle of a value in its full shape."""
        if value.is_constant and value.stored_shape != value.shape and is_static(value.shape):
            return self.ops.constant(np.broadcast_to(value.array, value.shape))
        handle = self.stored(value)
        return handle if value.stored_shape == value.shape else self.ops.expand(handle, self.numbers(value.shape))

    def stored(self, value: Value) -> Handle:
        """The handle of a value in its stored shape."""
        return self.ops.constant(value.array) if value.is_constant else self.settled(value).array

    def settled(self, value: Value) -> Value:
        """The value with its convolution written, if it is one to which factors and shifts may still be added."""
        convolution = value.array
        if not isinstance(convolution, Convolution):
            return value
        handle = self.ops.conv(
            convolution.x,
            convolution.kernel,
            bias=convolution.bias,
            strides=convolution.strides,
            padding=convolution.padding,
            groups=convolution.groups,
        )
        return dataclasses.replace(value, array=handle)

    def numbers(self, shape: Sequence[Size]) -> list[Number]:
        """The sizes as integers and handles of them."""
        return [size if isinstance(size, int) else self.number(size) for size in map(as_int, shape)]

    def stops(self, stops: Sequence[Size], shape: Sequence[Size]) -> list[Number | None]:
        """Ends of a slice of a tensor of this shape; None for that of a whole axis whose size depends on the batch."""

        def end(stop: Size, size: Size) -> Number | None:
            return None if not is_static([size]) and str(stop) == str(size) else self.numbers([stop])[0]

        return [end(stop, size) for stop, size in zip(stops, shape, strict=True)]

    def part(
        self, x: Value, starts: Sequence[int], stops: Sequence[Size], steps: Sequence[int] | None = None
    ) -> Value | Handle:
        """A part of a value, which stays a constant where it can."""
        if x.is_constant and (constant := part_of(x, starts, stops, steps)):
            return constant
        ends, steps = self.stops(stops, x.shape), steps or [1] * len(starts)
        return self.ops.slice(self.expanded(x), self.numbers(starts), ends, steps)

    def number(self, size: Size) -> Handle:
        """The handle of an expression of the batch, int32."""
        handles, text = self._sizes[-1], str(size)
        if text not in handles:
            handles[text] = self._evaluated(ast.parse(text, mode="eval").body)
        return handles[text]

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
            raise self.unsupported(f"a size of {ast.unparse(node)}")
        handles = [self._evaluated(argument) for argument in arguments]
        return functools.reduce(lambda x, y: self.ops.binary(name, x, y, np.dtype(np.int32)), handles)

    def _divided(self, x: Handle, y: Handle) -> dict[str, Handle]:
        """Quotient and remainder by y > 0; the quotient is rounded down, as in expressions of sizes."""
        quotient = self.int_op("div", x, y)
        is_rounded_up = self.ops.cast(self.int_op("lt", x, self.int_op("mul", quotient, y)), np.dtype(np.int32))
        quotient = self.int_op("sub", quotient, is_rounded_up)
        return {"floordiv": quotient, "mod": self.int_op("sub", x, self.int_op("mul", quotient, y))}

    def unsupported(self, what: str) -> ConfigError:
        """The error for what only StableHLO supports."""
        return ConfigError(
            f"{self.ops.format} does not support {what}, which this detector has; use --format=stablehlo."
        )

    def int_op(self, name: str, x: Handle, y: Handle) -> Handle:
        """A binary operation of int32."""
        return self.ops.binary(name, x, y, np.dtype(np.int32))

    def size_handle(self, size: Size) -> Handle:
        """The handle of a size, int32."""
        (number,) = self.numbers([size])
        return self.ops.constant(np.int32(number)) if isinstance(number, int) else number

    def clamped(self, x: Handle, last: Size) -> Handle:
        """`x` clamped to 0 and `last`."""
        return self.int_op("min", self.int_op("max", x, self.ops.constant(np.int32(0))), self.size_handle(last))
