"""A TFLite file whose weights of convolutions and products are float16 constants, which the runtime makes float32 of.

TensorFlow's own converter makes every constant float16, anchors and steps between cells too, which moves a box of
NanoDet-g by 0.1 to 0.3 pixels on a canvas of 416 x 416; with these exact it stays.
"""

import collections
from typing import Any

import numpy as np

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # their second input is a weight
VERSION = 3  # of the operation DEQUANTIZE, from which on it takes float16


def halved(content: bytes) -> bytes:
    """The file with those weights in float16."""
    from tensorflow.lite.tools import flatbuffer_utils  # late: tensorflow is an optional dependency

    model: Any = flatbuffer_utils.convert_bytearray_to_object(content)
    halves: dict[int, int] = {}  # by the index of a weight's buffer, that of the float16 numbers
    for graph in model.subgraphs:
        _halve(model, graph, halves)
    uses = collections.Counter(tensor.buffer for graph in model.subgraphs for tensor in graph.tensors)
    for old in halves:
        if not uses[old]:
            model.buffers[old].data = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _halve(model: Any, graph: Any, halves: dict[int, int]) -> None:
    """Puts a DEQUANTIZE of a float16 constant in the place of each weight of a graph."""
    from tensorflow.lite.python import schema_py_generated as schema  # late, as above

    kinds = {getattr(schema.BuiltinOperator, name) for name in WEIGHTED}
    weights = {
        int(operator.inputs[1])
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode in kinds
    }
    casts = []
    for index in sorted(weights):
        tensor = graph.tensors[index]
        data = model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.FLOAT32 or data is None:
            continue
        if tensor.buffer not in halves:
            numbers = np.frombuffer(bytes(data), np.float32).astype(np.float16)
            halves[tensor.buffer] = len(model.buffers)
            buffer: Any = schema.BufferT()
            buffer.data = np.frombuffer(numbers.tobytes(), np.uint8)
            model.buffers.append(buffer)
        half: Any = schema.TensorT()
        half.name, half.shape, half.type = tensor.name + b"_half", tensor.shape, schema.TensorType.FLOAT16
        half.hasRank, half.buffer, tensor.buffer = True, halves[tensor.buffer], 0  # buffer 0 is the empty one
        graph.tensors.append(half)
        cast: Any = schema.OperatorT()
        cast.opcodeIndex = _dequantize(model)
        cast.inputs, cast.outputs = [len(graph.tensors) - 1], [index]
        casts.append(cast)
    graph.operators = casts + list(graph.operators)


def _dequantize(model: Any) -> int:
    """The index of the operation DEQUANTIZE among those that the file uses."""
    from tensorflow.lite.python import schema_py_generated as schema  # late, as above

    kind = schema.BuiltinOperator.DEQUANTIZE
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == kind:
            code.version = max(code.version, VERSION)
            return index
    code: Any = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
