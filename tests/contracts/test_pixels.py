"""Training, evaluation, prediction and an export's script see the same pixels of a file."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxkd.data import coco, files, pictures
from jaxkd.export import standalone

HEIGHT, WIDTH = 24, 36


def smooth():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, 255 - x * 200 // WIDTH], -1).astype(np.uint8)


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


COLOUR, GREY = Image.fromarray(smooth()), Image.fromarray(smooth()[..., 0])
ALPHA = Image.fromarray(np.dstack([smooth(), smooth()[..., 1]]))
DEEP = Image.fromarray(smooth()[..., 0].astype(np.uint16) * 16)
WRITTEN = {
    "plain.jpg": lambda file: COLOUR.save(file, quality=90),
    "progressive.jpg": lambda file: COLOUR.save(file, quality=60, progressive=True, subsampling=2),
    "grey.jpg": lambda file: GREY.save(file),
    "print.jpg": lambda file: COLOUR.convert("CMYK").save(file),
    "plain.png": lambda file: COLOUR.save(file),
    "palette.png": lambda file: COLOUR.convert("P").save(file, transparency=3),
    "one_bit.png": lambda file: GREY.convert("1").save(file),
    "alpha.png": lambda file: ALPHA.save(file),
    "grey_alpha.png": lambda file: ALPHA.convert("LA").save(file),
    "deep.png": lambda file: DEEP.save(file),
    "deep.tif": lambda file: DEEP.save(file),
    "float.tif": lambda file: Image.fromarray(smooth()[..., 0].astype(np.float32) / 255).save(file),
    "alpha.tif": lambda file: ALPHA.save(file),
    "turned_alpha.tif": lambda file: ALPHA.save(file, exif=with_orientation(6)),
    "moving.gif": lambda file: COLOUR.save(file, save_all=True, append_images=[COLOUR.rotate(90)]),
    "plain.webp": lambda file: COLOUR.save(file, lossless=True),
    "plain.bmp": lambda file: COLOUR.save(file),
    "plain.avif": lambda file: COLOUR.save(file),
    "plain.jp2": lambda file: COLOUR.save(file),
}
WRITTEN |= {
    f"turned_{orientation}{suffix}": lambda file, turn=orientation: COLOUR.save(file, exif=with_orientation(turn))
    for suffix in (".jpg", ".png", ".tif", ".webp")
    for orientation in range(2, 9)
}
READINGS = [
    pictures.Config(exif="turn"),
    pictures.Config(exif="ignore", levels=(16.0, 3000.0), fourth="ignore"),
]


def seen_in_training(file, reading):
    """What a COCO source reads, whose annotations have the size of the stored or the turned picture."""
    header = pictures.read_header(file, name=file.name)
    height, width = header.turned_size if reading.exif == "turn" else header.stored_size
    images = [{"id": 1, "file_name": file.name, "height": height, "width": width}]
    truth = {"images": images, "categories": [{"id": 1, "name": "thing"}], "annotations": []}
    annotations = file.with_suffix(".json")
    annotations.write_text(json.dumps(truth))
    source = coco.load(coco.Config(images=str(file.parent), annotations=str(annotations), reading=reading))
    return source.read(0)


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.exif)
@pytest.mark.parametrize("name", WRITTEN)
def test_all_see_the_same(tmp_path, name, reading):
    file = tmp_path / name
    WRITTEN[name](file)
    trained = seen_in_training(file, reading)
    (predicted,) = files.read([str(file)], lambda frame: frame.image, reading=reading)
    exported = standalone.read(file, exif=reading.exif, levels=reading.levels, fourth=reading.fourth)
    np.testing.assert_array_equal(predicted, trained)
    np.testing.assert_array_equal(exported, trained)


def test_the_readings_differ(tmp_path):
    for name in ("turned_6.jpg", "turned_8.tif", "alpha.png", "deep.png"):
        WRITTEN[name](tmp_path / name)
        one, other = (seen_in_training(tmp_path / name, reading) for reading in READINGS)
        assert one.shape != other.shape or (one != other).any(), name
