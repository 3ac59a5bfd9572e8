"""A decoder of picture files: any common format as 8-bit RGB, oriented as its annotations expect."""

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

MAX_PIXELS = 100_000_000
RGB_FORMATS = ("JPEG", "PNG")  # OpenCV decodes these to the same pixels as Pillow, and faster
INVERSE_ORIENTATION = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # the EXIF orientation that undoes another


@dataclasses.dataclass(frozen=True)
class Config:
    """How a file is decoded where there is a choice; the same for training, evaluation, prediction and export."""

    exif: Literal["auto", "turn", "ignore"] = "auto"
    """Whether a picture is turned by its EXIF tag where its annotated size does not tell: "turn" as viewers do, or
    "ignore"; "auto" decides by the annotated sizes of the source's other pictures, and turns where none tells."""
    levels: tuple[Finite, ...] = ()
    """Values of grey pictures of more than 8 bits that become 0 and 255, such as (0, 4095) for a 12-bit camera; () for
    the full range of the data type."""
    fourth: Literal["alpha", "ignore"] = "alpha"
    """The fourth channel: "alpha" composites the picture over black, "ignore" drops the channel."""

    def validated(self) -> "Config":
        """This config; raises ConfigError where the levels are no range."""
        if self.levels and not (len(self.levels) == 2 and self.levels[0] < self.levels[1]):
            raise ConfigError(f"reading.levels are the values that become 0 and 255, or (); got {self.levels}.")
        return self

    @property
    def follows_exif(self) -> bool:
        """Whether a picture is turned by its EXIF tag where its annotated size does not tell, or is missing."""
        return self.exif != "ignore"


PLAIN = Config()


def reading_of(source: object) -> Config:
    """How the files of a source are decoded; PLAIN for a source without the attribute `reading`."""
    return getattr(source, "reading", PLAIN)


DARK, FLAT = 26, 13  # of 255; a picture is dark or flat if its 99.5th percentile, or that less the 0.5th, is below
SHADED = 0.4  # share of the brightness without transparency; a picture below it is reported


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of a picture file says."""

    height: int  # as stored, in pixels
    width: int
    orientation: int  # EXIF orientation, 1 for none

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width as stored."""
        return self.height, self.width

    @property
    def turned_size(self) -> tuple[int, int]:
        """Height and width after the EXIF orientation is applied."""
        return (self.width, self.height) if self.orientation >= 5 else self.stored_size


def read(path: Path, *, size: tuple[int, int] | None = None, reading: Config = PLAIN) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in a file as RGB, as `decode` gives it.

    Raises:
      PictureError: where the file is missing or empty, or `decode` raises it.
      DataError: where permission is denied, or `decode` raises it.
    """
    return decode(read_bytes(path), name=str(path), size=size, reading=reading)


def decode(
    content: bytes, *, name: str, size: tuple[int, int] | None = None, reading: Config = PLAIN
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in the bytes of a file as RGB, 8 bit a channel; of an animation, the first frame.

    Grey and palette pictures become RGB, 16-bit pictures are scaled, transparent pictures are composited over black.
    A picture with an EXIF orientation is left as stored where only the stored size is the annotated `size` (height,
    width), and turned where only the turned size is; else `reading` decides. `name` is for messages.

    Raises:
      PictureError: where it is no picture, damaged or larger than 100 million pixels, or has an EXIF orientation and
        `size` is neither its stored nor its turned size.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            _check_size(picture, name)
            orientation = _orientation(picture)
            image = _decode_rgb(content) if _is_plain(picture, content) else _convert(picture, reading)
            if picture.format == "TIFF":  # Pillow has already applied the orientation
                image = apply_orientation(image, orientation=INVERSE_ORIENTATION[orientation])
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} {formats.why_unknown(content)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name} has too many pixels to be decoded safely; scale it down.") from error
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise PictureError(f"{name} does not decode ({error}); replace it or take it off the list.") from error
    if orientation == 1:
        return image
    upright = apply_orientation(image, orientation=orientation)
    if size is None or image.shape == upright.shape:
        return upright if reading.follows_exif else image
    if size not in (image.shape[:2], upright.shape[:2]):
        raise PictureError(
            f"{name} is to be turned by its EXIF tag, but its annotations give {size[1]}x{size[0]}, neither its "
            f"stored nor its turned size {upright.shape[1]}x{upright.shape[0]}; correct the width and height."
        )
    return image if size == image.shape[:2] else upright


def read_header(file: Path | bytes, *, name: str) -> Header:
    """The header of a picture file, or of its bytes; no pixel is decoded.

    Raises:
      PictureError: where it is no picture, or has a size that `decode` refuses.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
            _check_size(picture, name)
            orientation, (width, height) = _orientation(picture), picture.size
            if picture.format == "TIFF" and orientation >= 5:  # Pillow gives the turned size
                width, height = height, width
            return Header(height, width, orientation)
    except PictureError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        content = file if isinstance(file, bytes) else read_bytes(file, limit=formats.HEADER_BYTES)
        raise PictureError(f"{name} {formats.why_unknown(content)}") from error


def apply_orientation(image: UInt8[np.ndarray, "h w 3"], *, orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    """The stored picture after the EXIF orientation, from 1 to 8, is applied."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def read_bytes(path: Path, *, limit: int = -1) -> bytes:
    """The bytes of a file, or the first `limit` of them.

    Raises:
      PictureError: where it is missing, empty or unreadable.
      DataError: where permission is denied.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit)
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
    if pixels > MAX_PIXELS:
        raise PictureError(f"{name} has {picture.width}x{picture.height} pixels; scale it below 100 million.")
    if pixels == 1:
        raise PictureError(f"{name} is a single pixel; replace it or take it off the list.")


def _orientation(picture: Image.Image) -> int:
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged tag is no reason to lose the picture
        return 1
    return orientation if orientation in range(1, 9) else 1


def _is_plain(picture: Image.Image, content: bytes) -> bool:
    """Whether OpenCV decodes the same pixels; it would silently accept a JPEG without its end."""
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
    """Grey values of 16 or 32 bits or floats as 8 bits; the levels, or the range of the type, become 0 and 255."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(high) and np.isfinite(low)):
        raise ValueError("its grey values are not finite")
    if levels:
        black, white = levels
    else:
        black, white = 0.0, 65535.0 if values.dtype.kind != "f" else 1.0 if high <= 1 else 255.0
        if low < 0 or high > white:
            raise ValueError(f"its grey values go from {low:g} to {high:g}; set reading.levels to what is 0 and 255")
    scaled = (values.astype(np.float64) - black) * (255.0 / (white - black))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def why_dark_or_flat(content: bytes, image: UInt8[np.ndarray, "h w 3"], *, reading: Config = PLAIN) -> str:
    """Why a decoded picture is nearly black, flat or much darker than stored, with a remedy; "" where it is not.

    `content` are the bytes of its file.
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
