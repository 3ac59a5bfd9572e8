"""Runs the exported detector beside this file on pictures: python detect.py PICTURE...

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
    """An exported detector, from a folder with model.json; call it with a picture, uint8 RGB [h w 3]."""

    def __init__(self, folder):
        self.description = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        kind = self.description["format"]
        try:
            run = RUNTIMES[kind](str(Path(folder) / self.description["file"]))
        except ImportError as error:
            raise ImportError(f"a model of {kind} needs its runtime: pip install {PACKAGES[kind]} ({error})") from error
        rule = self.description.get("decoding")  # of a file that ends with the maps of its head
        self.run = lambda images, sizes: (
            decode(run(images=images), rule, sizes[0]) if rule else run(images=images, sizes=sizes)
        )

    def read(self, name):
        """The picture in a file (a path, or an open file) as training reads it, uint8 RGB [h w 3]."""
        return read(name, **self.description["picture"]["reading"])

    def __call__(self, picture, least=0.5):
        """Class, score and box (x0, y0, x1, y1 in picture pixels) of each detection that scores `least`, best first."""
        canvas, size = self.prepare(picture)
        outputs = self.run(canvas[None], np.array([size], np.int32))
        scale = np.array([size[1] / picture.shape[1], size[0] / picture.shape[0]] * 2)
        rows = []
        for index in range(int(outputs["count"][0])):
            score = float(outputs["scores"][0, index])
            if score >= least:
                box = (outputs["boxes"][0, index] / scale).tolist()
                rows.append(
                    {"class": self.description["classes"][outputs["labels"][0, index]], "score": score, "box": box}
                )
        return rows

    def prepare(self, picture):
        """The picture on its canvas [H W 3], and its height and width there."""
        rule, (height, width) = self.description["picture"], picture.shape[:2]
        to_size = smooth if rule["antialias"] else resize
        if rule["fit"] == "stretch":
            return to_size(picture, *rule["canvas"]), tuple(rule["canvas"])
        scale = min(rule["short"] / min(height, width), rule["long"] / max(height, width))
        height, width = scaled_size(height, width, scale)
        canvas_height, canvas_width = rule["canvas"]
        height, width = scaled_size(height, width, min(1.0, canvas_height / height, canvas_width / width))
        size = min(height, canvas_height), min(width, canvas_width)
        canvas = np.full((canvas_height, canvas_width, 3), rule["fill"], np.uint8)
        canvas[: size[0], : size[1]] = to_size(picture, *size)
        return canvas, size


def decode(maps, rule, size):
    """Boxes, scores, labels and count of a picture of `size` (height, width), of the maps [1 h w _] of each level."""
    levels = [
        candidates(maps[f"logits_{index}"][0], maps[f"boxes_{index}"][0], level, rule)
        for index, level in enumerate(rule["levels"])
    ]
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    boxes = boxes.clip(0, np.array([size[1], size[0]] * 2, np.float32))
    order = np.argsort(-scores, kind="stable")
    order = order[((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))[order]]
    kept = []
    while len(order) and len(kept) < rule["max_detections"]:
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[(labels[order] != labels[best]) | (overlaps(boxes[best], boxes[order]) <= rule["nms"])]
    boxes, scores, labels = (array[np.array(kept, int)][None] for array in (boxes, scores, labels))
    return {"boxes": boxes, "scores": scores, "labels": labels, "count": np.array([len(kept)], np.int32)}


def candidates(logits, numbers, level, rule):
    """Boxes [n 4], scores [n] and labels [n] of the best pairs of an anchor and a class of a level."""
    anchors, width = np.array(level["anchors"], np.float32), logits.shape[1]
    scores = 1 / (1 + np.exp(-logits.astype(np.float32).clip(-80, 80))).reshape(-1)
    places = np.flatnonzero(scores > rule["score_threshold"])
    places = places[np.argsort(-scores[places], kind="stable")[: rule["candidates"]]]
    place, label = np.divmod(places, logits.shape[-1] // len(anchors))
    cell, kind = np.divmod(place, len(anchors))
    shift = np.stack([cell % width, cell // width] * 2, -1) * np.array(level["step"][::-1] * 2, np.float32)
    anchors, numbers = anchors[kind] + shift, numbers.reshape(logits[..., 0].size * len(anchors), 4, -1)[place]
    center, sides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    if rule["code"] == "sides":  # distances in units, each as one number or as a distribution over 0, 1, 2, ...
        weights = np.exp(numbers - numbers.max(-1, keepdims=True))
        means = (weights * np.arange(numbers.shape[-1])).sum(-1) / weights.sum(-1)
        distances = (means if numbers.shape[-1] > 1 else numbers[..., 0]) * level["unit"]
        return np.concatenate([center - distances[:, :2], center + distances[:, 2:]], -1), scores[places], label
    deltas = numbers[..., 0] / np.array(rule["weights"], np.float32)
    center, half = center + deltas[:, :2] * sides, sides * np.exp(deltas[:, 2:].clip(None, rule["most_log"])) / 2
    return np.concatenate([center - half, center + half], -1), scores[places], label


def overlaps(box, boxes):
    """The intersection over union of a box with each of the boxes [n 4]."""
    shared = (np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])).clip(0).prod(-1)
    return shared / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(-1) - shared)


FLIPS = Image.Transpose
UNDO = {  # undoes the rotation that Pillow applies for each EXIF orientation
    2: FLIPS.FLIP_LEFT_RIGHT,
    3: FLIPS.ROTATE_180,
    4: FLIPS.FLIP_TOP_BOTTOM,
    5: FLIPS.TRANSPOSE,
    6: FLIPS.ROTATE_90,
    7: FLIPS.TRANSVERSE,
    8: FLIPS.ROTATE_270,
}


def read(name, exif="turn", levels=(), fourth="alpha"):
    """The picture in a file, uint8 RGB [h w 3]: rotated by its EXIF tag, 16 bits as 8, transparency over black.

    `name` is a path, or an open file. `exif="ignore"` rotates nothing, `levels` are the grey values of a deep picture
    that become 0 and 255, and `fourth="ignore"` drops a fourth channel.
    """
    content = name if hasattr(name, "read") else io.BytesIO(Path(name).read_bytes())
    with Image.open(content) as file:  # from bytes: Pillow rotates a TIFF twice if it is opened by name
        orientation = file.getexif().get(0x0112, 1)  # before decoding, when Pillow rotates a TIFF
        picture = ImageOps.exif_transpose(file) if exif == "turn" else file.copy()
        if exif == "ignore" and file.format == "TIFF" and orientation in UNDO:
            picture = picture.transpose(UNDO[orientation])
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


def scaled_size(height, width, scale):
    """Height and width times a factor, in whole pixels."""
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(picture, height, width):
    """The picture at another size, bilinear: bit for bit OpenCV's INTER_LINEAR, which works in integers."""
    if picture.shape[:2] == (2 * height, 2 * width):  # half the size: means of 2 x 2
        parts = picture.reshape(height, 2, width, 2, 3).astype(np.uint16)
        return ((parts.sum((1, 3)) + 2) >> 2).astype(np.uint8)
    low, high, to_low, to_high = interpolation(picture.shape[1], width)
    rows = (picture[:, low] * to_low[:, None] + picture[:, high] * to_high[:, None]) >> 4
    low, high, to_low, to_high = interpolation(picture.shape[0], height)
    upper, lower = rows[low] * to_low[:, None, None], rows[high] * to_high[:, None, None]
    return (((upper >> 16) + (lower >> 16) + 2) >> 2).astype(np.uint8)


def smooth(picture, height, width):
    """The picture at another size, bilinear; of a side that shrinks each pixel is a mean of all that it covers."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def interpolation(before, after):
    """For each new pixel of a side: the indices of its two old neighbours, and their weights, integers of 2048ths."""
    position = ((np.arange(after) + 0.5) * (1 / (after / before)) - 0.5).astype(np.float32)
    low = np.floor(position)
    weights = [np.rint(weight * np.float32(2048)).astype(np.int32) for weight in (1 - (position - low), position - low)]
    return (*((low + step).astype(int).clip(0, before - 1) for step in (0, 1)), *weights)


def draw_boxes(picture, detections):
    """The picture with its detections drawn, as a Pillow image."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for detection in detections:
        draw.rectangle(detection["box"], outline="red", width=2)
        draw.text(detection["box"][:2], f"{detection['class']} {detection['score']:.2f}", fill="yellow")
    return image


def onnx(file):
    """The model as a function, run by onnxruntime."""
    import onnxruntime  # late: only the runtime of this format has to be installed

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options)
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(None, inputs), strict=True))


def tflite(file):
    """The model as a function, run by LiteRT, formerly TensorFlow Lite."""
    from ai_edge_litert.interpreter import Interpreter  # late: only the runtime of this format has to be installed

    runner = Interpreter(model_path=file, num_threads=2).get_signature_runner()
    given, made = runner.get_input_details(), runner.get_output_details()

    def run(**inputs):
        quantized = {name: to_int8(value, given[name]) for name, value in inputs.items()}
        return {name: from_int8(value, made[name]) for name, value in runner(**quantized).items()}

    return run


def to_int8(value, details):
    """The array as an input of 8 bits has it, if it is one whose numbers are not the array's."""
    scale, zero = details["quantization"]
    if not scale or (scale, zero) == (1, 0):
        return value
    limits = np.iinfo(details["dtype"])
    return np.rint(value / np.float32(scale) + zero).clip(limits.min, limits.max).astype(details["dtype"])


def from_int8(value, details):
    """The numbers of an output, which may be of 8 bits."""
    scale, zero = details["quantization"]
    return (value.astype(np.float32) - zero) * np.float32(scale) if scale else value


def savedmodel(file):
    """The model as a function, run by TensorFlow."""
    import tensorflow as tf  # late: only the runtime of this format has to be installed

    loaded = tf.saved_model.load(file)  # its variables live as long as this object
    run = loaded.signatures["serving_default"]
    return lambda loaded=loaded, **inputs: {
        name: value.numpy() for name, value in run(**{name: tf.constant(x) for name, x in inputs.items()}).items()
    }


def stablehlo(file):
    """The model as a function, run by JAX on its default device."""
    import jax  # late: only the runtime of this format has to be installed
    import jax.export

    run = jax.jit(jax.export.deserialize(bytearray(Path(file).read_bytes())).call)
    return lambda **inputs: {name: np.asarray(value) for name, value in run(*inputs.values()).items()}


RUNTIMES: dict[str, Callable] = {"onnx": onnx, "tflite": tflite, "savedmodel": savedmodel, "stablehlo": stablehlo}
PACKAGES = {  # what to pip install for each
    "onnx": "onnxruntime",
    "tflite": "ai-edge-litert",
    "savedmodel": "tensorflow",
    "stablehlo": "jax flatbuffers",
}


def main():
    """Prints the detections in the pictures of the command line; returns 65 where one could not be read, else 0."""
    parser = argparse.ArgumentParser(
        description="Prints the objects in pictures, one line of JSON a picture; boxes are x0, y0, x1, y1 in pixels.",
        epilog="A picture that cannot be read is named and left out; the exit code is then 65.",
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--least", type=float, default=0.5, metavar="SCORE", help="lowest score that is printed (0.5)")
    parser.add_argument("--out", metavar="FILE", help="file for the lines, instead of standard output")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="folder for the pictures with their boxes, as PNG")
    options = parser.parse_args()
    skipped = 0
    try:
        model = Model(Path(__file__).resolve().parent)
        if options.draw:
            options.draw.mkdir(parents=True, exist_ok=True)
        with open(options.out, "w") if options.out else contextlib.nullcontext(sys.stdout) as out:
            for number, name in enumerate(options.pictures, start=1):
                try:
                    picture = model.read(name)
                except Exception as error:  # a damaged file makes decoders raise nearly anything
                    skipped += 1
                    print(f"detect.py: {name} cannot be read and is left out: {error}", file=sys.stderr)
                    continue
                detections = model(picture, options.least)
                rows = [{**row, "box": np.round(row["box"], 2).tolist()} for row in detections]
                print(json.dumps({"picture": name, "found": rows}), file=out, flush=True)
                if options.draw:
                    draw_boxes(picture, detections).save(options.draw / f"{number:04d}_{Path(name).stem}.png")
    except (ImportError, OSError) as error:
        sys.exit(f"detect.py: {error}")
    if skipped:
        print(f"detect.py: {skipped} of {len(options.pictures)} pictures could not be read", file=sys.stderr)
    return 65 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
