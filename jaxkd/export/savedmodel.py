"""SavedModel: plain TensorFlow operations, for TensorFlow and its servers; no JAX inside."""

from pathlib import Path
from typing import Any

from jaxkd.export.base import Subject
from jaxkd.export.lowering import lower
from jaxkd.export.values import static_sizes

FILE, EXTRA, NEEDS = "model", "tflite", ("tensorflow",)


def write(subject: Subject, file: Path, *, exact: bool = False) -> None:
    """Writes the folder of a SavedModel with one signature, "serving_default"; for `exact` see `tf_ops.TfOps`."""
    import tensorflow as tf  # late: an optional dependency

    traced = function(subject, exact=exact).get_concrete_function()
    # Only the signature: a function that is an attribute of the module would be traced and written a second time.
    tf.saved_model.save(tf.Module(), str(file), signatures={"serving_default": traced})


def function(subject: Subject, *, exact: bool = False) -> Any:
    """The detector as a tf.function."""
    # Imported late: tensorflow is an optional dependency.
    import tensorflow as tf

    from jaxkd.export.tf_ops import TfOps

    program = subject.program()
    shapes = [static_sizes(aval.shape) for aval in program.in_avals]

    def detect(*inputs: Any) -> dict[str, Any]:
        outputs = lower(program, TfOps(exact=exact), inputs, tf.shape(inputs[0])[0])
        return dict(zip(subject.outputs, outputs, strict=True))

    signature = [
        tf.TensorSpec(shape, aval.dtype, name)
        for name, shape, aval in zip(subject.inputs, shapes, program.in_avals, strict=True)
    ]
    return tf.function(detect, signature, autograph=False)
