"""An ONNX graph whose convolutions and products, and what lies between them, compute in float16.

Inputs, outputs, decoding, scores, suppression and the sums of norms stay float32: coordinates have more digits than
float16, and squares of a map may be larger than its largest number.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jaxkd.export.onnx_layout import needed, read_by

ON_MAPS = {  # operations that are half where their operands are, and how many of their inputs are operands
    "Add": 2, "AveragePool": 1, "Clip": 3, "Concat": None, "LeakyRelu": 1, "MaxPool": 1, "Mul": 2, "Relu": 1,
    "Resize": 1, "Transpose": 1,
}  # fmt: skip
BOOLEANS = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or")
RESHAPES = ("Expand", "Reshape", "Transpose", "Unsqueeze")
LARGEST = float(np.finfo(np.float16).max)


class Halving:
    """A graph that is written again; the float16 one of a tensor `x` is called `x_half`."""

    def __init__(self, initializers: Sequence[onnx.TensorProto]):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers = {tensor.name: tensor for tensor in initializers}
        self._computed: set[str] = set()  # tensors that are computed in float16
        self._cast: set[str] = set()  # names, with _half or without, that casts have made
        self._booleans: set[str] = set()
        self._masks: set[str] = set()  # tensors of 0 and 1

    def add(self, node: onnx.NodeProto) -> None:
        """Adds a node, after those of its inputs."""
        count = len(node.input) if self._is_product(node) else self._operands(node)
        if count:
            half = onnx.NodeProto.FromString(node.SerializeToString())
            half.input[:count] = [self._half(name) for name in node.input[:count]]
            half.output[:] = [f"{name}_half" for name in node.output]
            self.nodes.append(half)
            self._computed.update(node.output)
            return
        for name in sorted(read_by(node) & self._computed - self._cast):
            self._cast_to(TensorProto.FLOAT, f"{name}_half", name)
        self.nodes.append(node)
        if node.op_type in BOOLEANS or (node.op_type in RESHAPES and node.input[0] in self._booleans):
            self._booleans.update(node.output)
        elif (node.op_type == "Cast" and node.input[0] in self._booleans) or (
            node.op_type in RESHAPES and node.input[0] in self._masks
        ):
            self._masks.update(node.output)

    def _is_product(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a convolution or a product of matrices with weights, which has several results a row."""
        if node.op_type == "Conv":
            return all(map(self._is_weight, node.input[1:]))
        return (
            node.op_type == "MatMul"
            and self._is_weight(node.input[1])
            and min(self.initializers[node.input[1]].dims[-2:]) > 1
        )

    def _operands(self, node: onnx.NodeProto) -> int:
        """How many inputs of an operation on maps are operands, 0 where it stays float32."""
        if node.op_type not in ON_MAPS:
            return 0
        operands = node.input[: ON_MAPS[node.op_type]]
        maps = [name for name in operands if name in self._computed]
        others = [name for name in operands if name not in self._computed]
        if node.op_type == "Mul":
            fits = len(maps) == 1 and all(name in self._masks or self._is_weight(name) for name in others)
        else:
            fits = bool(maps) and all(map(self._is_weight, others))
        return len(operands) if fits else 0

    def _is_weight(self, name: str) -> bool:
        """Whether a tensor is a constant of float32 numbers that float16 holds."""
        tensor = self.initializers.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return False
        return bool((np.abs(numpy_helper.to_array(tensor)) <= LARGEST).all())

    def _half(self, name: str) -> str:
        half = f"{name}_half"
        if name in self._computed or half in self._cast or half in self.initializers:
            return half
        if name in self.initializers:
            array = numpy_helper.to_array(self.initializers[name]).astype(np.float16)
            self.initializers[half] = numpy_helper.from_array(array, half)
        else:
            self._cast_to(TensorProto.FLOAT16, name, half)
        return half

    def _cast_to(self, kind: int, name: str, out: str) -> None:
        self.nodes.append(helper.make_node("Cast", [name], [out], name=f"{out}_cast", to=kind))
        self._cast.add(out)


def halved(
    nodes: Iterable[onnx.NodeProto], initializers: Sequence[onnx.TensorProto], outputs: Sequence[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and initializers of a graph whose convolutions and products are in float16; its outputs are not.

    The outputs are those of Identity nodes.
    """
    halving = Halving(initializers)
    for node in nodes:
        halving.add(node)
    kept, used = needed(halving.nodes, outputs)
    return kept, [tensor for name, tensor in halving.initializers.items() if name in used]
