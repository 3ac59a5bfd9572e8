"""Fuzzed picture files: each is read, or refused in one sentence, quickly and in little memory.

`pytest --hypothesis-profile=fuzz tests/data/test_fuzz_pictures.py` tries 500.
"""

import functools
import io

import numpy as np
from fuzzing import bounded, quick
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxkd.data import pictures
from jaxkd.data.base import PictureError
from jaxkd.export import standalone

KINDS = {
    "JPEG": {"quality": 80},
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "WEBP": {},
    "JPEG2000": {},
    "AVIF": {},
    "PPM": {},
    "TGA": {},
    "PCX": {},
}
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "LA", "P", "1", "I;16"),
    "TIFF": ("RGB", "RGBA", "I;16", "F"),
}


@functools.cache
def written(kind, mode):
    y, x = np.mgrid[:24, :36]
    image = Image.fromarray(np.stack([x * 7, y * 10, 255 - x * 5], -1).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray((x * 900 + y).astype(np.uint16))
    elif mode == "F":
        image = Image.fromarray((x / 36).astype(np.float32))
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, kind, **KINDS[kind], **({"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP") else {}))
    return stream.getvalue()


@st.composite
def files(draw):
    """The bytes of a picture, changed in places or cut."""
    kind = draw(st.sampled_from(list(KINDS)))
    raw = bytearray(written(kind, draw(st.sampled_from(MODES.get(kind, ("RGB",))))))
    for place, new in draw(
        st.lists(st.tuples(st.integers(0, len(raw) - 1), st.binary(min_size=1, max_size=4)), max_size=5)
    ):
        raw[place : place + len(new)] = new
    cut = draw(st.none() | st.integers(0, len(raw)))
    return bytes(raw[:cut] + draw(st.binary(max_size=6)))


READINGS = st.sampled_from([pictures.PLAIN, pictures.Config("ignore", (100.0, 900.0), "ignore")])


@quick(250)
@given(content=files(), reading=READINGS, sized=st.booleans())
def test_a_picture_with_changed_bytes_is_read_or_refused(tmp_path_factory, content, reading, sized):
    file = tmp_path_factory.getbasetemp() / "fuzzed"
    file.write_bytes(content)
    with bounded():
        try:
            image = pictures.read(file, size=(24, 36) if sized else None, reading=reading)
        except PictureError as error:
            assert str(error).endswith(".") and "\n" not in str(error), str(error)
            return
        pictures.why_dark_or_flat(content, image, reading=reading)
        header = pictures.read_header(file, name="it")
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.shape[:2] in (header.stored_size, header.turned_size)
    if not sized:
        exif = "turn" if reading.follows_exif else "ignore"
        found = standalone.read(file, exif=exif, levels=reading.levels, fourth=reading.fourth)
        np.testing.assert_array_equal(found, image)
