"""TFLite: builtin operations alone, suppression inside, for phones and small boards; float32, or int8 where it pays."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxkd.export import savedmodel
from jaxkd.export.base import Subject
from jaxkd.silence import silent_stderr

FILE, EXTRA, NEEDS = "model.tflite", "tflite", ("tensorflow", "ai_edge_litert")
QUANTIZED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def write(subject: Subject, file: Path, *, calibration: Sequence[tuple[np.ndarray, np.ndarray]] = ()) -> None:
    """Writes the flat buffer; with calibration pictures, one whose convolutions and products are of int8.

    All else stays float32, inputs and outputs too: with every operation in int8 that TFLite has in int8, the
    quickstart's student falls from AP 50.5 to 19.2, and with these alone it stays (51.2).

    Args:
      subject: what to write.
      file: where.
      calibration: pairs of one picture on its canvas [1 H W 3] and its size [1 2], after which ranges are set.

    Raises whatever TensorFlow raises where it cannot convert the detector; `folder.write` makes one sentence of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        savedmodel.write(subject, Path(folder) / savedmodel.FILE, exact=bool(calibration))
        with silent_stderr():
            content = _converted(str(Path(folder) / savedmodel.FILE), calibration)
    file.write_bytes(content)


def _converted(folder: str, calibration: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    # Late, for tensorflow is an optional dependency.
    import tensorflow as tf
    from tensorflow.lite.python import schema_py_generated as schema

    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if not calibration:
        return converter.convert()

    def pictures() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for images, sizes in calibration:
            yield "serving_default", {"images": images, "sizes": sizes}

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops.append(tf.lite.OpsSet.TFLITE_BUILTINS_INT8)
    converter.representative_dataset = pictures
    others = [name for name in vars(schema.BuiltinOperator) if name.isupper() and name not in QUANTIZED]
    chosen = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=others)
    with warnings.catch_warnings():  # of its own deprecations
        warnings.simplefilter("ignore")
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=pictures, debug_options=chosen
        )
        return debugger.get_nondebug_quantized_model()
