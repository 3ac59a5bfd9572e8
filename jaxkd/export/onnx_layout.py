"""The layout of maps in an ONNX graph: transpositions between [b h w c] and [b c h w] that cancel are removed."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jaxkd.export.onnx_ops import FROM_ONNX, TO_ONNX

ELEMENTWISE = {
    "Abs", "Add", "Cast", "Clip", "Div", "Exp", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Relu", "Sigmoid", "Sqrt",
    "Sub", "Tanh",
}  # fmt: skip


class Layout:
    """A graph that is written again, with operations on maps [b c h w] wherever their operands come from there."""

    def __init__(self, initializers: Sequence[onnx.TensorProto]):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers = {tensor.name: tensor for tensor in initializers}
        self._planes: dict[str, str] = {}  # by the name of a map [b h w c], that of the same map as [b c h w]
        self._same: dict[str, str] = {}  # by the name of a map [b c h w], that of an equal one

    def add(self, node: onnx.NodeProto) -> None:
        """Adds a node, after those of its inputs."""
        node = onnx.NodeProto.FromString(node.SerializeToString())
        for place, name in enumerate(node.input):
            node.input[place] = self._same.get(name, name)
        if node.op_type == "Transpose":
            self._transpose(node)
        elif node.op_type in ELEMENTWISE or (node.op_type == "Concat" and _attributes(node)["axis"] in (3, -1)):
            self._elementwise(node)
        else:
            self.nodes.append(node)

    def _transpose(self, node: onnx.NodeProto) -> None:
        (x,), (out,), order = node.input, node.output, tuple(_attributes(node)["perm"])
        self.nodes.append(node)  # where nothing reads it, `needed` leaves it out
        if order == FROM_ONNX:
            self._planes[out] = x
        elif order == TO_ONNX and x in self._planes:
            self._same[out] = self._planes[x]

    def _elementwise(self, node: onnx.NodeProto) -> None:
        operands = [plane for name in node.input if (plane := self._plane(name)) is not None]
        if not any(name in self._planes for name in node.input) or len(operands) < len(node.input):
            self.nodes.append(node)
            return
        (out,) = node.output
        self._planes[out] = plane = f"{out}_plane"
        attributes = _attributes(node)
        if node.op_type == "Concat":
            attributes["axis"] = 1
        self.nodes += [
            helper.make_node(node.op_type, operands, [plane], name=plane, **attributes),
            helper.make_node("Transpose", [plane], [out], name=out, perm=FROM_ONNX),
        ]

    def _plane(self, name: str) -> str | None:
        """The name of an operand as [b c h w], None where it would have to be transposed in the graph."""
        if name in self._planes or name not in self.initializers:
            return self._planes.get(name)
        tensor = self.initializers[name]
        if len(tensor.dims) != 4:
            return name if np.prod(tensor.dims) == 1 else None
        plane = f"{name}_plane"
        array = numpy_helper.to_array(tensor).transpose(TO_ONNX)
        self.initializers[plane] = numpy_helper.from_array(np.ascontiguousarray(array), plane)
        return plane


def relaid(
    nodes: Iterable[onnx.NodeProto], initializers: Sequence[onnx.TensorProto], outputs: Iterable[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and initializers of a graph that its outputs need, with as few transpositions as this module knows."""
    layout = Layout(initializers)
    for node in nodes:
        layout.add(node)
    kept, used = needed(layout.nodes, outputs)
    return kept, [tensor for name, tensor in layout.initializers.items() if name in used]


def needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that the outputs depend on, and the names of all tensors that are used."""
    used, kept = set(outputs), []
    for node in reversed(nodes):
        if used.intersection(node.output):
            kept.append(node)
            used |= read_by(node)
    return kept[::-1], used


def read_by(node: onnx.NodeProto) -> set[str]:
    """The names that a node and the graphs within it read."""
    graphs = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    inner = [inner for graph in graphs for inner in graph.node]
    return set(node.input).union(*(read_by(node) for node in inner), *([o.name for o in g.output] for g in graphs))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
