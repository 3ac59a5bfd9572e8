"""What the rules of the lowering have in hand: a format's operations, and values and sizes as handles of it."""

import ast
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxkd.errors import ConfigError
from jaxkd.export.ops import Handle, Number, Ops
from jaxkd.export.values import Size, Value, is_static, plain


class Context:
    """Values and sizes of a program as handles of `ops`, the format that they are written to."""

    def __init__(self, ops: Ops, batch: Handle):
        self.ops = ops
        self._sizes: list[dict[str, Handle]] = [{"b": batch}]  # by expression, for each loop that the walk is in

    def wrapped(self, handle: Handle, aval: Any) -> Value:
        """A handle as the value of a variable."""
        return Value(handle, False, aval.shape, aval.shape, np.dtype(aval.dtype))

    def whole(self, value: Value) -> Handle:
        """The handle of a value in its full shape."""
        if value.known and value.held != value.shape and is_static(value.shape):
            return self.ops.constant(np.broadcast_to(value.array, value.shape))
        handle = self.least(value)
        return handle if value.held == value.shape else self.ops.expand(handle, self.numbers(value.shape))

    def least(self, value: Value) -> Handle:
        """The handle of a value as it is held."""
        return self.ops.constant(value.array) if value.known else value.array

    def numbers(self, shape: Sequence[Size]) -> list[Number]:
        """The sizes as integers and handles of them."""
        return [size if isinstance(size, int) else self.number(size) for size in map(plain, shape)]

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
            raise self.refusal(f"a size of {ast.unparse(node)}")
        handles = [self._evaluated(argument) for argument in arguments]
        return functools.reduce(lambda x, y: self.ops.binary(name, x, y, np.dtype(np.int32)), handles)

    def _divided(self, x: Handle, y: Handle) -> dict[str, Handle]:
        """Quotient and remainder by a y above 0, rounded down, as sizes are."""
        quotient = self.int("div", x, y)
        below = self.ops.cast(self.int("lt", x, self.int("mul", quotient, y)), np.dtype(np.int32))
        quotient = self.int("sub", quotient, below)
        return {"floordiv": quotient, "mod": self.int("sub", x, self.int("mul", quotient, y))}

    def refusal(self, what: str) -> ConfigError:
        """The error for what no format but StableHLO takes."""
        return ConfigError(f"{self.ops.format} cannot hold {what}, which this detector has; use --format=stablehlo.")

    def int(self, name: str, x: Handle, y: Handle) -> Handle:
        """A binary operation of int32."""
        return self.ops.binary(name, x, y, np.dtype(np.int32))

    def of_size(self, size: Size) -> Handle:
        """The handle of a size, int32."""
        (number,) = self.numbers([size])
        return self.ops.constant(np.int32(number)) if isinstance(number, int) else number

    def held_inside(self, x: Handle, last: Size) -> Handle:
        """`x` held between 0 and `last`."""
        return self.int("min", self.int("max", x, self.ops.constant(np.int32(0))), self.of_size(last))
