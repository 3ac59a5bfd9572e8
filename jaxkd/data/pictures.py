"""Reading a picture file right: any common format, the way its annotations saw it, as RGB bytes."""

import io
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from jaxkd.data.base import PictureError, Record, check_links
from jaxkd.errors import DataError

MOST_PIXELS = 100_000_000
RGB_FORMATS = ("JPEG", "PNG")  # OpenCV decodes these to Pillow's pixels, and faster


def read(path: Path, *, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in a file as RGB, as `decode` gives it.

    Raises:
      PictureError: where the file is missing or empty, or `decode` raises it.
      DataError: where the file may not be read, or `decode` raises it.
    """
    return decode(_content(path), name=str(path), size=size)


def decode(content: bytes, *, name: str, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in the bytes of a file as RGB, 8 bit a channel; of an animation, the first frame.

    Grey and palette pictures become RGB, 16-bit ones are scaled, transparent ones are laid over black. A picture whose
    EXIF tag says that it has to be turned is left as it is stored where `size`, (height, width) of its annotations, is
    that of the stored picture, and turned otherwise.

    Raises:
      PictureError: where it is no picture, damaged or larger than 100 million pixels; `name` says which in messages.
      DataError: where it is to be turned and `size` is neither the stored nor the turned one.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            _check_size(picture, name)
            image = _decode_rgb(content) if _is_plain(picture, content) else _convert(picture)
            turn = _orientation(picture)  # asked last: Pillow turns a TIFF while it decodes, and takes the tag away
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a picture; replace it or take it off the list.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name} has too many pixels to be decoded safely; scale it down.") from error
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise PictureError(f"{name} does not decode ({error}); replace it or take it off the list.") from error
    if turn == 1 or size == image.shape[:2]:
        return image
    image = turned(image, orientation=turn)
    if size is not None and size != image.shape[:2]:
        raise DataError(
            f"{name} is to be turned by its EXIF tag, but its annotations give {size[1]}x{size[0]}, neither its "
            f"stored nor its turned size {image.shape[1]}x{image.shape[0]}; correct the width and height."
        )
    return image


def read_record(
    record: Record, folder: Path, *, described: Path, strict: bool = False, allow_links: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB picture of a record below `folder`, whose size the annotation file `described` gives.

    Raises:
      PictureError: where this picture is missing or broken.
      DataError: where it may not be used: a link out of the folder, or in strict mode a wrong size.
    """
    path = folder / record.file
    if not allow_links:
        check_links(path, folder=folder)
    image = read(path, size=(record.height, record.width))
    if strict and image.shape[:2] != (record.height, record.width):
        raise DataError(
            f"{path} is {image.shape[1]}x{image.shape[0]}, but {described} says {record.width}x{record.height}; "
            "correct the width and height, or leave out strict."
        )
    return image


def size_of(content: bytes, *, name: str) -> tuple[int, int]:
    """Height and width as stored, from the head of a picture file, with no pixel decoded.

    Raises:
      PictureError: where it is no picture, or one that `decode` would refuse for its size.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            _check_size(picture, name)
            return picture.height, picture.width
    except PictureError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise PictureError(f"{name} is not a picture; replace it or take it off the list.") from error


def turned(image: UInt8[np.ndarray, "h w 3"], *, orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    """The stored picture as it is meant to be seen, for an EXIF orientation from 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
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


def _convert(picture: Image.Image) -> np.ndarray:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return np.repeat(_eight_bit(np.asarray(picture))[..., None], 3, -1)
    if picture.has_transparency_data:
        pixels = np.asarray(picture.convert("RGBA")).astype(np.uint16)
        return ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    return np.array(picture.convert("RGB"))


def _eight_bit(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 or 32 bit or of floats, scaled so that the full range of their kind becomes 0..255."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(high) and low >= 0):
        raise ValueError("its grey values are negative or not finite")
    full = 65535.0
    if values.dtype.kind == "f":
        full = 1.0 if high <= 1 else 255.0
    if high > full:
        raise ValueError(f"its grey values go up to {high:g}")
    return np.rint(values.astype(np.float64) * (255.0 / full)).astype(np.uint8)
