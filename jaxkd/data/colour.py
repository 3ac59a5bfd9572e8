"""Changes of a picture's colours: brightness, contrast, saturation and hue, as one matrix."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in grey (ITU-R BT.601)
MIDDLE = 128.0  # the value that contrast leaves alone


def adjust(
    image: UInt8[np.ndarray, "h w 3"],
    *,
    brightness: float = 0.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with other colours, rounded and clipped once at the end.

    Args:
      image: RGB.
      brightness: is added, in levels of 255.
      contrast: factor of the distance from 128.
      saturation: factor of the distance from grey; 0 gives grey.
      hue: turn about the axis of greys, in degrees.
    """
    if (brightness, contrast, saturation, hue) == (0.0, 1.0, 1.0, 0.0):
        return image
    return cv2.transform(image, _matrix(brightness, contrast, saturation, hue))


def _matrix(brightness: float, contrast: float, saturation: float, hue: float) -> Float32[np.ndarray, "3 4"]:
    """A matrix for (red, green, blue, 1); all four changes are linear, so that they become one."""
    grey = np.tile(LUMA, (3, 1))
    colours = grey + saturation * (np.eye(3) - grey)
    mixed = contrast * (colours @ _turn(hue))
    offset = brightness + MIDDLE * (1 - contrast)
    return np.concatenate([mixed, np.full((3, 1), offset)], axis=1).astype(np.float32)


def _turn(degrees: float) -> np.ndarray:
    """The rotation of colours [3 3] about (1, 1, 1), by the formula of Rodrigues; grey stays as it is."""
    angle = np.deg2rad(degrees)
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return axis + np.cos(angle) * (np.eye(3) - axis) + np.sin(angle) * cross
