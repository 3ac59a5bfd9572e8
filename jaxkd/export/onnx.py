"""ONNX: one graph with the standard NonMaxSuppression inside, for onnxruntime and other runtimes of opset 17."""

from pathlib import Path

import numpy as np

from jaxkd import json_values
from jaxkd.export.base import INPUTS, OUTPUTS, Subject, describe
from jaxkd.export.lowering import lower
from jaxkd.version import VERSION

FILE, EXTRA, NEEDS = "model.onnx", "onnx", ("onnx", "onnxruntime")


def write(subject: Subject, file: Path) -> None:
    """Writes the graph, checked, with the description of `base.describe` in its metadata as "jaxkd"."""
    # Imported late: onnx is an optional dependency.
    import onnx
    from onnx import TensorProto, helper

    from jaxkd.export.onnx_ops import IR, OPSET, OnnxOps

    ops = OnnxOps()
    batch = ops.node("Gather", [ops.node("Shape", [INPUTS[0]]), ops.constant(np.int64(0))], axis=0)
    outputs = lower(subject.program(), ops, INPUTS, ops.cast(batch, np.dtype(np.int32)))
    ops.nodes += [helper.make_node("Identity", [x], [name]) for name, x in zip(OUTPUTS, outputs, strict=True)]
    detections = subject.loaded.config.postprocess.max_detections
    output_specs = {
        "boxes": (TensorProto.FLOAT, ["b", detections, 4]),
        "scores": (TensorProto.FLOAT, ["b", detections]),
        "labels": (TensorProto.INT32, ["b", detections]),
        "count": (TensorProto.INT32, ["b"]),
    }
    graph = helper.make_graph(
        ops.nodes,
        "detector",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", *subject.size, 3]),
            helper.make_tensor_value_info("sizes", TensorProto.INT32, ["b", 2]),
        ],
        [helper.make_tensor_value_info(name, *output_specs[name]) for name in OUTPUTS],
        ops.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    model.producer_name, model.producer_version = "jaxkd", VERSION
    helper.set_model_props(model, {"jaxkd": json_values.dumps(describe(subject, kind="onnx", file=FILE))})
    onnx.checker.check_model(model)
    onnx.save(model, file)
