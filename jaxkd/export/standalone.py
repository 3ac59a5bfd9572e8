"""Runs an exported detector on pictures: python detect.py PICTURE... prints what is found as JSON, one line a picture.

It needs NumPy, Pillow (10.1 or later) and the one runtime of the format: onnxruntime, ai-edge-litert, tensorflow or
jax; not jaxkd.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np


class Model:
    """An exported detector in a folder with model.json; it is called with a picture, uint8 RGB [h w 3]."""

    def __init__(self, folder):
        self.about = json.loads((Path(folder) / "model.json").read_text())
        self.run = RUNTIMES[self.about["format"]](str(Path(folder) / self.about["file"]))

    def __call__(self, picture, least=0.5):
        """Names, scores and boxes (x0, y0, x1, y1) in the picture's own pixels, best first."""
        canvas, size = self.prepare(picture)
        found = self.run(canvas[None], np.array([size], np.int32))
        scale = np.array([size[1] / picture.shape[1], size[0] / picture.shape[0]] * 2)
        rows = []
        for place in range(int(found["count"][0])):
            score = float(found["scores"][0, place])
            if score >= least:
                box = (found["boxes"][0, place] / scale).round(2).tolist()
                rows.append({"class": self.about["classes"][found["labels"][0, place]], "score": score, "box": box})
        return rows

    def prepare(self, picture):
        """The picture on its canvas [H W 3], and its height and width there."""
        rule, (height, width) = self.about["picture"], picture.shape[:2]
        scale = min(rule["short"] / min(height, width), rule["long"] / max(height, width))
        height, width = scaled(height, width, scale)
        tall, wide = rule["canvas"]
        height, width = scaled(height, width, min(1.0, tall / height, wide / width))
        size = min(height, tall), min(width, wide)
        canvas = np.zeros((tall, wide, 3), np.uint8)
        canvas[: size[0], : size[1]] = resized(picture, *size)
        return canvas, size


def read(name):
    """The picture in a file, uint8 RGB [h w 3], as in training: turned by its EXIF tag, 8 bits of 16, over black."""
    from PIL import Image, ImageOps

    with Image.open(name) as file:
        picture = ImageOps.exif_transpose(file)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(float)
        full = 65535 if picture.mode != "F" else 1 if grey.max() <= 1 else 255
        return np.repeat(np.rint(grey * (255 / full)).clip(0, 255).astype(np.uint8)[..., None], 3, -1)
    if picture.has_transparency_data:
        pixels = np.asarray(picture.convert("RGBA")).astype(np.uint16)
        return ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    return np.asarray(picture.convert("RGB"))


def scaled(height, width, scale):
    """Both sides by one factor, in whole pixels."""
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resized(picture, height, width):
    """The picture at another size, bilinearly: along its rows, then along its columns."""
    out = picture.astype(np.float32)
    for axis, size in enumerate((height, width)):
        before = out.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * before / size - 0.5, 0, before - 1)
        low = np.minimum(place.astype(int), max(before - 2, 0))
        share = (place - low).reshape([-1 if side == axis else 1 for side in range(3)])
        out = out.take(low, axis) * (1 - share) + out.take(np.minimum(low + 1, before - 1), axis) * share
    return (out + 0.5).astype(np.uint8)


def onnx(file):
    """Through onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options)
    names = [output.name for output in session.get_outputs()]
    return lambda images, sizes: dict(zip(names, session.run(None, {"images": images, "sizes": sizes}), strict=True))


def tflite(file):
    """Through LiteRT, the runtime that was called TensorFlow Lite."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=file, num_threads=2).get_signature_runner()
    return lambda images, sizes: runner(images=images, sizes=sizes)


def savedmodel(file):
    """Through TensorFlow."""
    import tensorflow

    loaded = tensorflow.saved_model.load(file)
    run = loaded.signatures["serving_default"]

    def call(images, sizes, loaded=loaded):  # the variables live as long as what was loaded
        found = run(images=tensorflow.constant(images), sizes=tensorflow.constant(sizes))
        return {name: value.numpy() for name, value in found.items()}

    return call


def stablehlo(file):
    """Through JAX, on whatever it runs on."""
    import jax
    import jax.export

    run = jax.jit(jax.export.deserialize(bytearray(Path(file).read_bytes())).call)
    return lambda images, sizes: {name: np.asarray(value) for name, value in run(images, sizes).items()}


RUNTIMES: dict[str, Callable] = {"onnx": onnx, "tflite": tflite, "savedmodel": savedmodel, "stablehlo": stablehlo}


if __name__ == "__main__":
    model = Model(Path(__file__).resolve().parent)
    for name in sys.argv[1:]:
        print(json.dumps({"picture": name, "found": model(read(name))}))
