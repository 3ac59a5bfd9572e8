"""Transforms of a picture and its boxes on the host: resizing, mirroring and padding of numpy arrays."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

Sizes = Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A picture with its boxes, (x0, y0, x1, y1) in pixels of this picture."""

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float32[np.ndarray, "n 4"]


def target_size(height: int, width: int, *, short: int, long: int) -> tuple[int, int]:
    """Height and width with the short side at `short`, or less where the long side would exceed `long`.

    The sides keep their ratio up to rounding. This is the rule of the Faster R-CNN and RetinaNet recipes for COCO.
    """
    scale = min(short / min(height, width), long / max(height, width))
    return _scaled(height, width, scale)


def fit_size(height: int, width: int, *, bucket: tuple[int, int]) -> tuple[int, int]:
    """Height and width, scaled down by one factor where needed to fit into the bucket; never enlarged."""
    scale = min(1.0, bucket[0] / height, bucket[1] / width)
    fitted = _scaled(height, width, scale)
    return min(fitted[0], bucket[0]), min(fitted[1], bucket[1])


def contained_size(height: int, width: int, *, canvas: tuple[int, int]) -> tuple[int, int]:
    """Height and width, scaled up or down by one factor to the largest that the canvas holds."""
    scaled = _scaled(height, width, min(canvas[0] / height, canvas[1] / width))
    return min(scaled[0], canvas[0]), min(scaled[1], canvas[1])


def choose_bucket(height: int, width: int, buckets: Sizes) -> int:
    """Index of the smallest bucket that a picture of this size fits into; if none, of the one that shrinks it least."""
    indices = range(len(buckets))
    large_enough = [i for i in indices if buckets[i][0] >= height and buckets[i][1] >= width]
    if large_enough:
        return min(large_enough, key=lambda i: buckets[i][0] * buckets[i][1])
    return max(indices, key=lambda i: (min(buckets[i][0] / height, buckets[i][1] / width), -np.prod(buckets[i])))


def resize(sample: Sample, *, height: int, width: int, antialias: bool = False) -> Sample:
    """The sample resized as by `resize_image`; boxes are scaled by the exact factor of each side."""
    old_height, old_width = sample.image.shape[:2]
    if (old_height, old_width) == (height, width):
        return sample
    image = resize_image(sample.image, height=height, width=width, antialias=antialias)
    return Sample(image, resize_boxes(sample.boxes, (old_height, old_width), height=height, width=width))


def resize_boxes(
    boxes: Float32[np.ndarray, "n 4"], size: tuple[int, int], *, height: int, width: int
) -> Float32[np.ndarray, "n 4"]:
    """Boxes of a picture of `size` (height, width) that is resized, scaled by the exact factor of each side."""
    return boxes * np.array([width / size[1], height / size[0]] * 2, np.float32)


def resize_image(
    image: UInt8[np.ndarray, "h w 3"], *, height: int, width: int, antialias: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture resized bilinearly; with `antialias`, each pixel of a smaller one is a mean of all that it covers."""
    if image.shape[:2] == (height, width):
        return image
    if antialias:
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def flip(sample: Sample) -> Sample:
    """The sample mirrored left to right."""
    return Sample(flip_image(sample.image), flip_boxes(sample.boxes, width=sample.image.shape[1]))


def flip_boxes(boxes: Float32[np.ndarray, "n 4"], *, width: int) -> Float32[np.ndarray, "n 4"]:
    """Boxes of a picture of this width that is mirrored left to right."""
    x0, y0, x1, y1 = boxes.T
    return np.stack([width - x1, y0, width - x0, y1], -1).astype(np.float32)


def flip_image(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture mirrored left to right."""
    return cv2.flip(image, 1)  # much faster than a copy by numpy


def pad(image: UInt8[np.ndarray, "h w 3"], *, bucket: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in the top left corner of a black canvas of the bucket's size, into which it has to fit."""
    padded = np.zeros((*bucket, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def tiny(boxes: Float32[np.ndarray, "n 4"], *, min_side: float = 1.0) -> Bool[np.ndarray, "n"]:
    """Mask of the boxes with a side below `min_side` pixels."""
    return ((boxes[:, 2] - boxes[:, 0]) < min_side) | ((boxes[:, 3] - boxes[:, 1]) < min_side)


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
