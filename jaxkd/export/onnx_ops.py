"""The operations of `ops.Ops` as nodes of an ONNX graph."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jaxkd.export.ops import Number

OPSET, IR = 17, 8  # read by runtimes since 2022
UNARY = {
    "abs": "Abs", "ceil": "Ceil", "exp": "Exp", "floor": "Floor", "log": "Log", "logistic": "Sigmoid", "neg": "Neg",
    "not": "Not", "round": "Round", "sign": "Sign", "sqrt": "Sqrt", "tanh": "Tanh",
}  # fmt: skip
BINARY = {
    "add": "Add", "and": "And", "div": "Div", "eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "or": "Or", "pow": "Pow", "sub": "Sub",
    "xor": "Xor",
}  # fmt: skip
REDUCE = {"reduce_and": "ReduceMin", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_or": "ReduceMax"}
TO_ONNX, FROM_ONNX = (0, 3, 1, 2), (0, 2, 3, 1)  # axes of maps
INT32, BOOL = np.dtype(np.int32), np.dtype(bool)


class OnnxOps:
    """A graph under construction; handles are names of tensors."""

    format = "ONNX"

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple, str] = {}
        self._count = 0

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """The output of a new node, or the list of its outputs."""
        names = [self._name(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: np.ndarray | np.generic) -> str:
        """The name of an initializer; equal constants share one."""
        value = np.ascontiguousarray(value).reshape(np.shape(value))
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = name = self._name("constant")
            self.initializers.append(numpy_helper.from_array(value, name))
        return self._constants[key]

    def unary(self, name: str, x: str) -> str:
        """See `ops.Ops`, as for all that follow."""
        if name == "rsqrt":
            return self.node("Reciprocal", [self.node("Sqrt", [x])])
        return self.node(UNARY[name], [x])

    def binary(self, name: str, x: str, y: str, dtype: np.dtype) -> str:
        """Integer division rounds towards zero in ONNX as in JAX."""
        if name == "ne":
            return self.node("Not", [self.node("Equal", [x, y])])
        if name == "rem":
            return self.node("Mod", [x, y], fmod=1)
        return self.node(BINARY[name], [x, y])

    def where(self, condition: str, x: str, y: str, dtype: np.dtype) -> str:
        """Runtimes have no Where of booleans."""
        if dtype == BOOL:
            other = self.node("And", [self.node("Not", [condition]), y])
            return self.node("Or", [self.node("And", [condition, x]), other])
        return self.node("Where", [condition, x, y])

    def cast(self, x: str, dtype: np.dtype) -> str:
        return self.node("Cast", [x], to=helper.np_dtype_to_tensor_dtype(dtype))

    def reshape(self, x: str, shape: Sequence[Number]) -> str:
        dynamic = [index for index, size in enumerate(shape) if isinstance(size, str)]
        if len(dynamic) == 1 and -1 not in shape and 0 not in shape:
            shape = [-1 if index in dynamic else size for index, size in enumerate(shape)]
        return self.node("Reshape", [x, self._shape(shape)])

    def transpose(self, x: str, order: Sequence[int]) -> str:
        return self.node("Transpose", [x], perm=[int(axis) for axis in order])

    def expand(self, x: str, shape: Sequence[Number]) -> str:
        return self.node("Expand", [x, self._shape(shape)])

    def concatenate(self, parts: Sequence[str], axis: int) -> str:
        return self.node("Concat", parts, axis=axis)

    def slice(self, x: str, start: Sequence[Number], stop: Sequence[Number | None], step: Sequence[int]) -> str:
        axes = self.constant(np.arange(len(start), dtype=np.int64))
        ends = self._shape([np.iinfo(np.int64).max if number is None else number for number in stop])
        return self.node("Slice", [x, self._shape(start), ends, axes, self._shape(step)])

    def pad(self, x: str, before: Sequence[Number], after: Sequence[Number], value: str) -> str:
        return self.node("Pad", [x, self._shape([*before, *after]), value])

    def reverse(self, x: str, axes: Sequence[int]) -> str:
        ends = [np.full(len(axes), number, np.int64) for number in (-1, np.iinfo(np.int64).min, -1)]
        start, stop, step = map(self.constant, ends)
        return self.node("Slice", [x, start, stop, self._shape(axes), step])

    def reduce(self, name: str, x: str, axes: Sequence[int], dtype: np.dtype) -> str:
        if name == "reduce_sum":
            return self.node("ReduceSum", [x, self._shape(axes)], keepdims=0)
        operand = self.cast(x, INT32) if dtype == BOOL else x
        out = self.node(REDUCE[name], [operand], axes=[int(axis) for axis in axes], keepdims=0)
        return self.cast(out, BOOL) if dtype == BOOL else out

    def cumsum(self, x: str, axis: int, reverse: bool) -> str:
        return self.node("CumSum", [x, self.constant(np.int32(axis))], reverse=int(reverse))

    def matmul(self, x: str, y: str) -> str:
        return self.node("MatMul", [x, y])

    def conv(
        self,
        x: str,
        kernel: np.ndarray,
        *,
        bias: np.ndarray | None,
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        groups: int,
    ) -> str:
        (top, bottom), (left, right) = padding
        weights = [kernel.transpose(3, 2, 0, 1), *([] if bias is None else [bias])]
        return self._of_maps(
            "Conv",
            [x, *map(self.constant, weights)],
            kernel_shape=kernel.shape[:2],
            strides=list(strides),
            pads=[top, left, bottom, right],
            group=groups,
        )

    def activation(self, name: str, x: str, *, slope: float) -> str:
        if name == "relu6":
            return self.node("Clip", [x, self.constant(np.float32(0)), self.constant(np.float32(6))])
        return self.node("Relu", [x]) if name == "relu" else self.node("LeakyRelu", [x], alpha=slope)

    def max_pool(self, x: str) -> str:
        return self._of_maps("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def mean_pool(self, x: str) -> str:
        return self._of_maps("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)

    def doubled(self, name: str, x: str, size: tuple[int, int]) -> str:
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        kind = {"nearest": ("nearest", "asymmetric"), "bilinear": ("linear", "half_pixel")}[name]
        modes = {"mode": kind[0], "coordinate_transformation_mode": kind[1], "nearest_mode": "floor"}
        return self._of_maps("Resize", [x, "", scales], **modes)

    def _of_maps(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node of the first input [b h w c]; ONNX has [b c h w], and `onnx_layout` removes what cancels."""
        out = self.node(kind, [self.transpose(inputs[0], TO_ONNX), *inputs[1:]], **attributes)
        return self.transpose(out, FROM_ONNX)

    def take(self, x: str, index: str) -> str:
        return self.node("Gather", [x, index], axis=0)

    def put(self, x: str, index: str, values: str, dtype: np.dtype) -> str:
        return self.node("ScatterND", [x, self._long(self.reshape(index, [-1, 1])), values])

    def top_k(self, x: str, k: int) -> tuple[str, str]:
        values, indices = self.node("TopK", [x, self.constant(np.array([k], np.int64))], 2)
        return values, self.cast(indices, INT32)

    def arange(self, count: Number) -> str:
        count = self.constant(np.int32(count)) if not isinstance(count, str) else count
        return self.node("Range", [self.constant(np.int32(0)), count, self.constant(np.int32(1))])

    def loop(
        self, condition: Callable, body: Callable, start: Sequence[str], shapes: Sequence[tuple], dtypes: Sequence
    ) -> list[str]:
        start_condition = condition(list(start))
        carried = [self._name("carried") for _ in start]
        with self._graph() as nodes:
            results = body(list(carried))
            next_condition = condition(results)
            outputs = [self.node("Identity", [name]) for name in (next_condition, *results)]
        iteration, condition_input = self._name("turn"), self._name("going")
        graph_inputs = [helper.make_tensor_value_info(iteration, TensorProto.INT64, [])]
        graph_inputs += [self._value_info(condition_input, (), BOOL)]
        graph_inputs += [self._value_info(*each) for each in zip(carried, shapes, dtypes, strict=True)]
        graph_outputs = [self._value_info(outputs[0], (), BOOL)]
        graph_outputs += [self._value_info(*each) for each in zip(outputs[1:], shapes, dtypes, strict=True)]
        graph = helper.make_graph(nodes, self._name("body"), graph_inputs, graph_outputs)
        loop = self.node("Loop", ["", start_condition, *start], len(start), body=graph)
        return [loop] if len(start) == 1 else loop

    def map(
        self, body: Callable, rows: Sequence[str], row_specs: Sequence[tuple], result_specs: Sequence[tuple]
    ) -> list[str]:
        row_inputs = [self._name("row") for _ in rows]
        with self._graph() as nodes:
            outputs = [self.node("Identity", [name]) for name in body(list(row_inputs))]
        graph = helper.make_graph(
            nodes,
            self._name("body"),
            [self._value_info(name, *spec) for name, spec in zip(row_inputs, row_specs, strict=True)],
            [self._value_info(name, *spec) for name, spec in zip(outputs, result_specs, strict=True)],
        )
        scan = self.node("Scan", rows, len(result_specs), body=graph, num_scan_inputs=len(rows))
        return [scan] if len(result_specs) == 1 else scan

    def suppress(
        self, boxes: str, scores: str, valid: str, classes: str, *, threshold: float, limit: int, count: int
    ) -> tuple[str, str]:
        """Indices [b limit] and their validity, by the standard NonMaxSuppression.

        It works class by class on scores above a threshold, so each class gets a row of scores in which the boxes of
        other classes are at the threshold. It returns triples of picture, class and box; their scores are scattered
        into one row a picture, and the best of each row are taken.
        """
        lowest = self.constant(np.float32(np.finfo(np.float32).min))
        finite = self.node("Not", [self.node("IsNaN", [scores])])
        scores = self.where(self.node("And", [valid, finite]), scores, lowest, np.dtype(np.float32))
        n_classes = self.node("Add", [self.node("ReduceMax", [classes], keepdims=0), self.constant(np.int32(1))])
        class_ids = self.reshape(self.arange(n_classes), [1, -1, 1])
        is_class = self.node("Equal", [self._unsqueezed(classes, 1), class_ids])  # [b k n]
        class_scores = self.where(is_class, self._unsqueezed(scores, 1), lowest, np.dtype(np.float32))
        kept = self.node(
            "NonMaxSuppression",
            [
                boxes,
                class_scores,
                self.constant(np.array([limit], np.int64)),
                self.constant(np.array([threshold], np.float32)),
                self._unsqueezed(lowest, 0),
            ],
        )
        picture, box = (self.node("Gather", [kept, self.constant(np.int64(column))], axis=1) for column in (0, 2))
        positions = self.node("Add", [self.node("Mul", [picture, self.constant(np.int64(count))]), box])
        flat = self.reshape(scores, [-1])
        kept_scores = self.node("Gather", [flat, positions], axis=0)
        best_scores = self.expand(self._unsqueezed(lowest, 0), [self.node("Size", [flat])])
        best_scores = self.node("ScatterND", [best_scores, self.reshape(positions, [-1, 1]), kept_scores])
        best_scores = self.reshape(best_scores, [-1, count])
        if count < limit:
            best_scores = self.pad(best_scores, [0, 0], [0, limit - count], lowest)
        top_scores, index = self.top_k(best_scores, limit)
        valid_out = self.node("Greater", [top_scores, lowest])
        return self.where(valid_out, index, self.constant(np.int32(0)), INT32), valid_out

    def _shape(self, numbers: Sequence[Number]) -> str:
        """An int64 tensor of integers and handles."""
        if not any(isinstance(number, str) for number in numbers):
            return self.constant(np.array([int(number) for number in numbers], np.int64))
        parts = [
            self._unsqueezed(self._long(number), 0)
            if isinstance(number, str)
            else self.constant(np.array([number], np.int64))
            for number in numbers
        ]
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)

    def _unsqueezed(self, x: str, axis: int) -> str:
        return self.node("Unsqueeze", [x, self.constant(np.array([axis], np.int64))])

    def _long(self, x: str) -> str:
        return self.node("Cast", [x], to=TensorProto.INT64)

    def _value_info(self, name: str, shape: Sequence[int | None], dtype: np.dtype) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

    @contextlib.contextmanager
    def _graph(self) -> Iterator[list[onnx.NodeProto]]:
        """Collects nodes for a subgraph meanwhile; constants stay in the outer graph, which subgraphs can read."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer
