"""TFLite: builtin operations only, NMS included, for phones and small boards; float32, or int8 where that pays.

With weights of float16 it computes in float32; see `tflite_half`.
"""

import dataclasses
import functools
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxkd.detectors.query import QueryDetector
from jaxkd.export import savedmodel
from jaxkd.export.base import Subject
from jaxkd.export.raw import RawSubject
from jaxkd.export.tflite_half import halved
from jaxkd.silence import silent_stderr

FILE, EXTRA, NEEDS = "model.tflite", "tflite", ("tensorflow", "ai_edge_litert")
CONVOLUTIONS, PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D"), ("FULLY_CONNECTED",)


def write(
    subject: Subject, file: Path, *, calibration: Sequence[tuple[np.ndarray, np.ndarray]] = (), half: bool = False
) -> None:
    """Writes the flat buffer; with calibration pictures, convolutions and matrix products are in int8.

    Of a file that ends with maps every operation is, and the outputs. Else all others stay float32, inputs and outputs
    too: with every int8 operation of TFLite the quickstart's student falls from AP 50.5 to 19.2, and with these alone
    it stays (51.2). Of a detector with queries the products stay float32 too: they say where each query looks, and in
    int8 they double the differences of scores in tiny detectors with random weights.

    Args:
      subject: the detector and its canvas size.
      file: the file to write.
      calibration: pairs of one picture on its canvas [1 H W 3] and its size [1 2], from which int8's ranges are set.
      half: whether the weights of convolutions and products are float16; not with calibration.

    Raises whatever TensorFlow raises where it cannot convert the detector; `folder.write` turns it into one sentence.
    """
    convert = functools.partial(_converted, quantized=quantized(subject))
    if calibration and isinstance(subject, RawSubject):
        subject, convert = dataclasses.replace(subject, dtype="float32"), _in_int8
    with tempfile.TemporaryDirectory() as folder:
        savedmodel.write(subject, Path(folder) / savedmodel.FILE, exact=bool(calibration))
        with silent_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow warns of its own deprecations
            content = convert(str(Path(folder) / savedmodel.FILE), calibration)
    file.write_bytes(halved(content) if half else content)


def quantized(subject: Subject) -> tuple[str, ...]:
    """The operations that are in int8 in a file that ends with detections."""
    return CONVOLUTIONS if isinstance(subject.loaded.detector, QueryDetector) else CONVOLUTIONS + PRODUCTS


def _in_int8(folder: str, calibration: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """The file with every operation in int8, the outputs too; the input is uint8."""
    import tensorflow as tf  # late: an optional dependency

    def pictures() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for images, _ in calibration:
            yield "serving_default", {"images": images.astype(np.float32)}

    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = pictures
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.int8
    return converter.convert()


def _converted(folder: str, calibration: Sequence[tuple[np.ndarray, np.ndarray]], *, quantized: Sequence[str]) -> bytes:
    """The file in float32, or with calibration these operations in int8."""
    # Imported late: tensorflow is an optional dependency.
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
    not_quantized = [name for name in vars(schema.BuiltinOperator) if name.isupper() and name not in quantized]
    debug_options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=not_quantized)
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=pictures, debug_options=debug_options
    )
    return debugger.get_nondebug_quantized_model()
