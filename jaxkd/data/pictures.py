"""Reading a picture file right: any common format, the way its annotations saw it, as RGB bytes."""

import dataclasses
import io
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from jaxkd.data import formats
from jaxkd.data.base import PictureError
from jaxkd.errors import ConfigError, DataError
from jaxkd.ranges import Finite

MOST_PIXELS = 100_000_000
RGB_FORMATS = ("JPEG", "PNG")  # OpenCV decodes these to Pillow's pixels, and faster
BACK = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # the orientation that undoes another


@dataclasses.dataclass(frozen=True)
class Config:
    """How a file becomes a picture where it leaves a choice; the same for training, evaluation, use and export.

    Attributes:
      exif: whether a picture is turned by its EXIF tag where its annotated size cannot tell: "turn" as viewers do,
        "ignore"; "auto" does as the sizes of the source's other pictures say, and turns where they say nothing.
      levels: of grey pictures of more than 8 bits, the values that become 0 and 255, such as (0, 4095) for a camera of
        12 bits; () for the whole range of their kind.
      fourth: what the fourth channel is: "alpha", by which a picture is laid over black, or of no meaning: "ignore".
    """

    exif: Literal["auto", "turn", "ignore"] = "auto"
    levels: tuple[Finite, ...] = ()
    fourth: Literal["alpha", "ignore"] = "alpha"

    def checked(self) -> "Config":
        """Itself; raises ConfigError where the levels are no range."""
        if self.levels and not (len(self.levels) == 2 and self.levels[0] < self.levels[1]):
            raise ConfigError(f"reading.levels are the values that become 0 and 255, or (); got {self.levels}.")
        return self

    @property
    def turns(self) -> bool:
        """Whether a picture is turned where nothing but its tag is known."""
        return self.exif != "ignore"


PLAIN = Config()


def reading_of(source: object) -> Config:
    """How the files of a source become pictures; PLAIN where it has none, or does not say."""
    return getattr(source, "reading", PLAIN)


DARK, FLAT = 26, 13  # of 255: what the brightest pixels, and the range of nearly all, stay under
SHADED = 0.4  # of the brightness without transparency, below which that is worth a word


@dataclasses.dataclass(frozen=True)
class Head:
    """What the head of a picture file says."""

    height: int  # as stored, in pixels
    width: int
    turn: int  # EXIF orientation, 1 for none

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width as stored."""
        return self.height, self.width

    @property
    def turned(self) -> tuple[int, int]:
        """Height and width as its EXIF tag wants it to be seen."""
        return (self.width, self.height) if self.turn >= 5 else self.stored


def read(path: Path, *, size: tuple[int, int] | None = None, reading: Config = PLAIN) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in a file as RGB, as `decode` gives it.

    Raises:
      PictureError: where the file is missing or empty, or `decode` raises it.
      DataError: where the file may not be read, or `decode` raises it.
    """
    return decode(content_of(path), name=str(path), size=size, reading=reading)


def decode(
    content: bytes, *, name: str, size: tuple[int, int] | None = None, reading: Config = PLAIN
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in the bytes of a file as RGB, 8 bit a channel; of an animation, the first frame.

    Grey and palette pictures become RGB, 16-bit ones are scaled, transparent ones are laid over black. A picture whose
    EXIF tag says that it has to be turned is left as it is stored where only that has the `size`, (height, width) of
    its annotations, and turned where only that has it; else `reading` decides.

    Raises:
      PictureError: where it is no picture, damaged or larger than 100 million pixels, or where it is to be turned and
        `size` is neither the stored nor the turned one; `name` says which in messages.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            _check_size(picture, name)
            turn = _orientation(picture)
            image = _decode_rgb(content) if _is_plain(picture, content) else _convert(picture, reading)
            if picture.format == "TIFF":  # Pillow has turned it while it decoded
                image = turned(image, orientation=BACK[turn])
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} {formats.why_unknown(content)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name} has too many pixels to be decoded safely; scale it down.") from error
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise PictureError(f"{name} does not decode ({error}); replace it or take it off the list.") from error
    if turn == 1:
        return image
    upright = turned(image, orientation=turn)
    if size is None or image.shape == upright.shape:
        return upright if reading.turns else image
    if size not in (image.shape[:2], upright.shape[:2]):
        raise PictureError(
            f"{name} is to be turned by its EXIF tag, but its annotations give {size[1]}x{size[0]}, neither its "
            f"stored nor its turned size {upright.shape[1]}x{upright.shape[0]}; correct the width and height."
        )
    return image if size == image.shape[:2] else upright


def head(file: Path | bytes, *, name: str) -> Head:
    """What the head of a picture file, or of its bytes, says; no pixel is decoded.

    Raises:
      PictureError: where it is no picture, or one that `decode` would refuse for its size.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
            _check_size(picture, name)
            turn, (width, height) = _orientation(picture), picture.size
            if picture.format == "TIFF" and turn >= 5:  # of which Pillow says the size that it will have when turned
                width, height = height, width
            return Head(height, width, turn)
    except PictureError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        content = file if isinstance(file, bytes) else content_of(file, most=formats.HEAD)
        raise PictureError(f"{name} {formats.why_unknown(content)}") from error


def turned(image: UInt8[np.ndarray, "h w 3"], *, orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    """The stored picture as it is meant to be seen, for an EXIF orientation from 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def content_of(path: Path, *, most: int = -1) -> bytes:
    """The bytes of a file, or the first `most` of them.

    Raises:
      PictureError: where it is missing, empty or unreadable.
      DataError: where it may not be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most)
    except FileNotFoundError as error:
        raise PictureError(f"There is no picture {path}; add it or take it off the list.") from error
    except PermissionError as error:
        raise DataError(f"{path} may not be read; change its permissions.") from error
    except (OSError, ValueError) as error:
        raise PictureError(f"{path} cannot be read ({error}); replace it or take it off the list.") from error
    if not content:
        raise PictureError(f"{path} is empty; replace it or take it off the list.")
    return content


def _check_size(picture: Image.Image, name: str) -> None:
    pixels = picture.width * picture.height
    if pixels > MOST_PIXELS:
        raise PictureError(f"{name} has {picture.width}x{picture.height} pixels; scale it below 100 million.")
    if pixels == 1:
        raise PictureError(f"{name} is a single pixel; replace it or take it off the list.")


def _orientation(picture: Image.Image) -> int:
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged tag is no reason to lose the picture
        return 1
    return found if found in range(1, 9) else 1


def _is_plain(picture: Image.Image, content: bytes) -> bool:
    """Whether OpenCV gives the same pixels; it would pass over the missing end of a JPEG in silence."""
    if picture.format == "JPEG" and not content.endswith(b"\xff\xd9"):
        return False
    return picture.format in RGB_FORMATS and picture.mode == "RGB" and "transparency" not in picture.info


def _decode_rgb(content: bytes) -> np.ndarray:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if image is None:
        raise ValueError("damaged content")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _convert(picture: Image.Image, reading: Config) -> np.ndarray:
    if _is_deep_grey(picture):
        return np.repeat(_eight_bit(np.asarray(picture), reading.levels)[..., None], 3, -1)
    if picture.has_transparency_data and reading.fourth == "alpha":
        pixels = np.asarray(picture.convert("RGBA")).astype(np.uint16)
        return ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    return np.array(picture.convert("RGB"))


def _is_deep_grey(picture: Image.Image) -> bool:
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def _eight_bit(values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Grey values of 16 or 32 bit or of floats; the levels, or the range of their kind, become 0 and 255."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(high) and np.isfinite(low)):
        raise ValueError("its grey values are not finite")
    if levels:
        first, last = levels
    else:
        first, last = 0.0, 65535.0 if values.dtype.kind != "f" else 1.0 if high <= 1 else 255.0
        if low < 0 or high > last:
            raise ValueError(f"its grey values go from {low:g} to {high:g}; set reading.levels to what is 0 and 255")
    scaled = (values.astype(np.float64) - first) * (255.0 / (last - first))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def conspicuous(content: bytes, image: UInt8[np.ndarray, "h w 3"], *, reading: Config = PLAIN) -> str:
    """Why a picture, read from the bytes of a file, is nearly black, flat or much darker than it is stored.

    A phrase that says what can be done too; "" where the picture is none of these.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    dark = high < DARK or high - low < FLAT
    with Image.open(io.BytesIO(content)) as picture:
        if picture.has_transparency_data and reading.fourth == "alpha":
            stored = np.asarray(picture.convert("RGB"))
            if dark or image.mean() < SHADED * stored.mean():
                share = image.mean() / max(stored.mean(), 1)
                return (
                    f"laid over black by its fourth channel, it is {share:.0%} as bright as without; "
                    "reading.fourth='ignore' leaves that out, where it is no transparency"
                )
        if not dark:
            return ""
        if _is_deep_grey(picture):
            values = np.asarray(picture)
            low, high = values.min(), values.max()
            return (
                f"of its {8 * values.itemsize} bits the values {low:g} to {high:g} are used; reading.levels says which "
                f"are black and white, such as ({low:g}, {high:g})"
            )
        return f"it is stored so ({picture.format}, {picture.mode})"
