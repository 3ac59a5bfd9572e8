"""SavedModel: plain TensorFlow operations, for TensorFlow and its servers; no JAX inside."""

from pathlib import Path
from typing import Any

from jaxkd.export.base import INPUTS, OUTPUTS, Subject
from jaxkd.export.lowering import lower

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

    def detect(images: Any, sizes: Any) -> dict[str, Any]:
        outputs = lower(program, TfOps(exact=exact), [images, sizes], tf.shape(images)[0])
        return dict(zip(OUTPUTS, outputs, strict=True))

    signature = [
        tf.TensorSpec((None, *subject.size, 3), tf.uint8, INPUTS[0]),
        tf.TensorSpec((None, 2), tf.int32, INPUTS[1]),
    ]
    return tf.function(detect, signature, autograph=False)
