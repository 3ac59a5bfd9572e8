"""ONNX: one graph with the standard NonMaxSuppression inside, for onnxruntime and other runtimes of opset 17.

It is of float32, or its convolutions and products are of float16; see `onnx_half`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxkd import json_values
from jaxkd.export.base import Subject, describe
from jaxkd.export.lowering import lower
from jaxkd.export.values import as_int
from jaxkd.version import VERSION

FILE, EXTRA, NEEDS = "model.onnx", "onnx", ("onnx", "onnxruntime")


def write(subject: Subject, file: Path, *, half: bool = False) -> None:
    """Writes the graph, checked, with the description of `base.describe` in its metadata as "jaxkd".

    With `half` its convolutions and products are in float16.
    """
    # Imported late: onnx is an optional dependency.
    import onnx
    from onnx import helper

    from jaxkd.export.onnx_half import halved
    from jaxkd.export.onnx_layout import relaid
    from jaxkd.export.onnx_ops import IR, OPSET, OnnxOps

    ops, program = OnnxOps(), subject.program()
    batch = ops.node("Gather", [ops.node("Shape", [subject.inputs[0]]), ops.constant(np.int64(0))], axis=0)
    outputs = lower(program, ops, subject.inputs, ops.cast(batch, np.dtype(np.int32)))
    ops.nodes += [helper.make_node("Identity", [x], [name]) for name, x in zip(subject.outputs, outputs, strict=True)]
    nodes, initializers = relaid(ops.nodes, ops.initializers, subject.outputs)
    if half:
        nodes, initializers = halved(nodes, initializers, subject.outputs)

    def value_info(name: str, aval: Any) -> Any:
        shape = [size if isinstance(size, int) else str(size) for size in map(as_int, aval.shape)]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype)), shape)

    graph = helper.make_graph(
        nodes,
        "detector",
        [value_info(name, aval) for name, aval in zip(subject.inputs, program.in_avals, strict=True)],
        [value_info(name, aval) for name, aval in zip(subject.outputs, program.out_avals, strict=True)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    model.producer_name, model.producer_version = "jaxkd", VERSION
    helper.set_model_props(model, {"jaxkd": json_values.dumps(describe(subject, kind="onnx", file=FILE))})
    onnx.checker.check_model(model)
    onnx.save(model, file)
