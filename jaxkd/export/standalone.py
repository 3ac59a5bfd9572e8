"""Finds objects in pictures by the exported detector beside this file: python detect.py PICTURE...

It prints one line of JSON a picture. It needs NumPy, Pillow (10.1 or later) and the runtime of the format: onnxruntime,
ai-edge-litert, tensorflow, or jax with flatbuffers; not jaxkd.
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

try:
    import numpy as np
    from PIL import Image, ImageDraw, ImageOps
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"detect.py needs NumPy and Pillow: pip install numpy pillow ({error})")


class Model:
    """An exported detector in a folder with model.json; it is called with a picture, uint8 RGB [h w 3]."""

    def __init__(self, folder):
        self.about = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        kind = self.about["format"]
        try:
            self.run = RUNTIMES[kind](str(Path(folder) / self.about["file"]))
        except ImportError as error:
            raise ImportError(f"a model of {kind} needs its runtime: pip install {PACKAGES[kind]} ({error})") from error

    def read(self, name):
        """The picture in a file, given by its path or opened, uint8 RGB [h w 3], as training reads it."""
        return read(name, **self.about["picture"]["reading"])

    def __call__(self, picture, least=0.5):
        """Names, scores and boxes (x0, y0, x1, y1) in the picture's own pixels, best first."""
        canvas, size = self.prepare(picture)
        found = self.run(canvas[None], np.array([size], np.int32))
        scale = np.array([size[1] / picture.shape[1], size[0] / picture.shape[0]] * 2)
        rows = []
        for place in range(int(found["count"][0])):
            score = float(found["scores"][0, place])
            if score >= least:
                box = (found["boxes"][0, place] / scale).tolist()
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


STEPS = Image.Transpose
BACK = {  # what undoes an orientation of EXIF
    2: STEPS.FLIP_LEFT_RIGHT,
    3: STEPS.ROTATE_180,
    4: STEPS.FLIP_TOP_BOTTOM,
    5: STEPS.TRANSPOSE,
    6: STEPS.ROTATE_90,
    7: STEPS.TRANSVERSE,
    8: STEPS.ROTATE_270,
}


def read(name, exif="turn", levels=(), fourth="alpha"):
    """The picture in a file, uint8 RGB [h w 3]: turned by its EXIF tag, 8 bits of 16, transparent ones over black.

    `name` is a path, or an open file. `exif` "ignore" turns nothing, `levels` are the deep grey values that become 0
    and 255, and `fourth` "ignore" leaves a fourth channel out.
    """
    content = name if hasattr(name, "read") else io.BytesIO(Path(name).read_bytes())
    with Image.open(content) as file:  # of its bytes: Pillow maps a TIFF that it opens by name, and turns it twice
        turn = file.getexif().get(0x0112, 1)  # asked first: Pillow turns a TIFF when it decodes it
        picture = ImageOps.exif_transpose(file) if exif == "turn" else file.copy()
        if exif == "ignore" and file.format == "TIFF" and turn in BACK:
            picture = picture.transpose(BACK[turn])
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(float)
        low, high = levels or (0, 65535 if picture.mode != "F" else 1 if grey.max() <= 1 else 255)
        if not np.isfinite(grey).all() or (not levels and (grey.min() < low or grey.max() > high)):
            raise ValueError(f"its grey values go from {grey.min():g} to {grey.max():g}")
        grey = np.rint(((grey - low) * (255 / (high - low))).clip(0, 255)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    if picture.has_transparency_data and fourth == "alpha":
        pixels = np.asarray(picture.convert("RGBA")).astype(np.uint16)
        return ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    return np.asarray(picture.convert("RGB"))


def scaled(height, width, scale):
    """Both sides by one factor, in whole pixels."""
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resized(picture, height, width):
    """The picture at another size, bilinearly: the bytes of OpenCV's INTER_LINEAR, which works in whole numbers."""
    if picture.shape[:2] == (2 * height, 2 * width):  # the mean of four
        parts = picture.reshape(height, 2, width, 2, 3).astype(np.uint16)
        return ((parts.sum((1, 3)) + 2) >> 2).astype(np.uint8)
    low, high, to_low, to_high = neighbours(picture.shape[1], width)
    rows = (picture[:, low] * to_low[:, None] + picture[:, high] * to_high[:, None]) >> 4
    low, high, to_low, to_high = neighbours(picture.shape[0], height)
    upper, lower = rows[low] * to_low[:, None, None], rows[high] * to_high[:, None, None]
    return (((upper >> 16) + (lower >> 16) + 2) >> 2).astype(np.uint8)


def neighbours(before, after):
    """The two old places that each new one of a side lies between, and their weights, whole numbers of 2048."""
    place = ((np.arange(after) + 0.5) * (1 / (after / before)) - 0.5).astype(np.float32)
    low = np.floor(place)
    weights = [np.rint(share * np.float32(2048)).astype(np.int32) for share in (1 - (place - low), place - low)]
    return (*((low + step).astype(int).clip(0, before - 1) for step in (0, 1)), *weights)


def drawn(picture, found):
    """The picture with its boxes, as an image of Pillow."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for one in found:
        draw.rectangle(one["box"], outline="red", width=2)
        draw.text(one["box"][:2], f"{one['class']} {one['score']:.2f}", fill="yellow")
    return image


def onnx(file):
    """Through onnxruntime."""
    import onnxruntime  # late: only the runtime of the file at hand has to be installed

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options)
    names = [output.name for output in session.get_outputs()]
    return lambda images, sizes: dict(zip(names, session.run(None, {"images": images, "sizes": sizes}), strict=True))


def tflite(file):
    """Through LiteRT, the runtime that was called TensorFlow Lite."""
    from ai_edge_litert.interpreter import Interpreter  # late: only the runtime of the file at hand has to be installed

    runner = Interpreter(model_path=file, num_threads=2).get_signature_runner()
    return lambda images, sizes: runner(images=images, sizes=sizes)


def savedmodel(file):
    """Through TensorFlow."""
    import tensorflow as tf  # late: only the runtime of the file at hand has to be installed

    loaded = tf.saved_model.load(file)  # its variables live as long as this does
    run = loaded.signatures["serving_default"]
    return lambda images, sizes, loaded=loaded: {
        name: value.numpy() for name, value in run(images=tf.constant(images), sizes=tf.constant(sizes)).items()
    }


def stablehlo(file):
    """Through JAX, on whatever it runs on."""
    import jax  # late: only the runtime of the file at hand has to be installed
    import jax.export

    run = jax.jit(jax.export.deserialize(bytearray(Path(file).read_bytes())).call)
    return lambda images, sizes: {name: np.asarray(value) for name, value in run(images, sizes).items()}


RUNTIMES: dict[str, Callable] = {"onnx": onnx, "tflite": tflite, "savedmodel": savedmodel, "stablehlo": stablehlo}
PACKAGES = {  # what pip installs for each
    "onnx": "onnxruntime",
    "tflite": "ai-edge-litert",
    "savedmodel": "tensorflow",
    "stablehlo": "jax flatbuffers",
}


def main():
    """Prints what is found in the pictures that are named; 65 where one of them could not be read, else 0."""
    parser = argparse.ArgumentParser(
        description="Prints what is found in pictures, one line of JSON a picture; boxes are x0, y0, x1, y1 in pixels.",
        epilog="A picture that cannot be read is named and left out; the exit code is then 65.",
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--least", type=float, default=0.5, metavar="SCORE", help="least score of what is told (0.5)")
    parser.add_argument("--out", metavar="FILE", help="file for the lines, in place of standard output")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="folder for the pictures with their boxes, as PNG")
    options = parser.parse_args()
    left_out = 0
    try:
        model = Model(Path(__file__).resolve().parent)
        if options.draw:
            options.draw.mkdir(parents=True, exist_ok=True)
        with open(options.out, "w") if options.out else contextlib.nullcontext(sys.stdout) as out:
            for number, name in enumerate(options.pictures, start=1):
                try:
                    picture = model.read(name)
                except Exception as error:  # a damaged file makes decoders raise nearly anything
                    left_out += 1
                    print(f"detect.py: {name} cannot be read and is left out: {error}", file=sys.stderr)
                    continue
                found = model(picture, options.least)
                told = [{**one, "box": np.round(one["box"], 2).tolist()} for one in found]
                print(json.dumps({"picture": name, "found": told}), file=out, flush=True)
                if options.draw:
                    drawn(picture, found).save(options.draw / f"{number:04d}_{Path(name).stem}.png")
    except (ImportError, OSError) as error:
        sys.exit(f"detect.py: {error}")
    if left_out:
        print(f"detect.py: {left_out} of {len(options.pictures)} pictures could not be read", file=sys.stderr)
    return 65 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
