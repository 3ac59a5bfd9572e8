"""From a trained detector to a file that runs without jaxkd."""

FORMATS = ("stablehlo", "onnx", "tflite", "savedmodel")  # each a module of this package
HALF = ("onnx", "tflite")  # those that can be of float16
