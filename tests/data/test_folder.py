"""A COCO source finds its pictures and their sizes, also where files were renamed or resized after annotation."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxkd.data import coco, pictures
from jaxkd.data.base import PictureError
from jaxkd.errors import DataError

BOX = [20, 10, 30, 40]  # x, y, width, height of the white square on a black picture of 96x72


@pytest.fixture
def made(tmp_path):
    """A source of pictures that were changed, and saved under changed names, since they were annotated."""

    def source(
        change=lambda image: image,
        *,
        count=3,
        name="{}.png",
        file_name="{}.png",
        size=(72, 96),
        orientation=1,
        **fields,
    ):
        image = np.zeros((72, 96, 3), np.uint8)
        image[BOX[1] : BOX[1] + BOX[3], BOX[0] : BOX[0] + BOX[2]] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation
        images, annotations = [], []
        for number in range(1, 4):
            file = tmp_path / "images" / name.format(number)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(change(image)).save(file, **({"exif": exif} if orientation != 1 else {}))
            shape = {} if size is None else {"height": size[0], "width": size[1]}
            images.append({"id": number, "file_name": file_name.format(number), **shape})
            annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": BOX, "area": 1200})
        content = {"images": images, "categories": [{"id": 1, "name": "square"}], "annotations": annotations}
        (tmp_path / "truth.json").write_text(json.dumps(content))
        config = coco.Config(images=str(tmp_path / "images"), annotations=str(tmp_path / "truth.json"), **fields)
        return coco.load(config)

    return source


def lies_on_its_object(source, index=0):
    """Whether a record's box holds the white square and nothing else."""
    image, (x0, y0, x1, y1) = source.read(index), source.records[index].boxes[0].round().astype(int)
    mask = np.zeros(image.shape[:2], bool)
    mask[y0:y1, x0:x1] = True
    return (mask == (image[..., 0] > 127)).mean() > 0.98


def resized(factor):
    return lambda image: cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("factor", [0.5, 2.0, 1.37])
def test_pictures_that_were_scaled_take_their_boxes_along(made, factor):
    source = made(resized(factor))
    assert source.repairs == {"sizes_scaled": 3}
    assert lies_on_its_object(source)
    truth = source.annotations()["annotations"][0]
    assert truth["area"] == pytest.approx(1200 * factor**2, rel=0.02)
    assert truth["bbox"][2] == pytest.approx(30 * factor, rel=0.02)


def test_sides_that_are_exchanged_are_taken_as_they_are(made):
    source = made(size=(96, 72))
    assert source.repairs == {"sizes_exchanged": 3}
    assert (source.records[0].height, source.records[0].width) == (72, 96)
    assert lies_on_its_object(source)


def test_a_size_that_is_missing_is_that_of_the_file(made):
    source = made(size=None)
    assert source.repairs == {"sizes_missing": 3}
    assert lies_on_its_object(source)


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_pictures_whose_size_cannot_tell(made, orientation):
    """The boxes were drawn on the turned ones, as tools show them; or, by the field, on the stored ones."""

    def stored(image):
        square = np.zeros((96, 96, 3), np.uint8)
        square[: image.shape[0], : image.shape[1]] = image
        return pictures.apply_orientation(square, orientation={3: 3, 6: 8}[orientation])

    for exif, change in (
        ("auto", stored),
        ("turn", stored),
        ("ignore", lambda image: np.pad(image, ((0, 24), (0, 0), (0, 0)))),
    ):
        source = made(change, size=(96, 96), orientation=orientation, reading=pictures.Config(exif=exif))
        assert source.repairs == {"exif_undecided": 3}
        assert source.reading.exif == ("ignore" if exif == "ignore" else "turn")
        assert lies_on_its_object(source)


def test_names_below_the_picture_folder_itself(made):
    source = made(file_name="images/{}.png")
    assert source.repairs == {"names_below_a_shared_folder": 3}
    assert lies_on_its_object(source)


def test_a_picture_that_is_nearly_there_is_named(made, tmp_path):
    source = made(name="default/{}.PNG")
    with pytest.raises(
        PictureError, match=rf"There is no picture .*images/1\.png; there is {tmp_path}/images/default/1"
    ):
        source.read(0)


def test_a_picture_that_changes_its_size_later_is_no_picture(made, tmp_path):
    source = made()
    Image.new("RGB", (50, 40)).save(tmp_path / "images" / "2.png")
    assert source.read(0).shape == (72, 96, 3)
    with pytest.raises(PictureError, match=r"2\.png is 50x40, but .*truth\.json says 96x72"):
        source.read(1)
    Image.new("RGB", (95, 72)).save(tmp_path / "images" / "2.png")  # a pixel of rounding
    assert source.read(1).shape == (72, 95, 3)


def test_strict_stops_at_all_of_these(made):
    for fields in ({"change": resized(0.5)}, {"size": (96, 72)}, {"size": (72, 50)}):
        with pytest.raises(DataError, match=r"truth\.json: pictures .*: 3, the first 1\.png, .* in place of"):
            made(strict=True, **fields)
