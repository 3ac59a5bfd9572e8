import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxkd.data import pictures
from jaxkd.data.base import PictureError
from jaxkd.errors import ConfigError, DataError


def smooth(height=24, width=36):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - x * 200 // width], -1).astype(np.uint8)


def saved(tmp_path, image, name="picture.png", **options):
    file = tmp_path / name
    image.save(file, **options)
    return file


def with_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(tmp_path, Image.fromarray(smooth()), name="turned.jpg", exif=exif, quality=95)


def test_an_ordinary_jpeg_is_what_pillow_sees(tmp_path):
    file = saved(tmp_path, Image.fromarray(smooth()), name="picture.jpg", quality=95)
    np.testing.assert_array_equal(pictures.read(file), np.asarray(Image.open(file)))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(smooth()).convert(mode)
    file = saved(tmp_path, image, name="picture.tif" if mode == "CMYK" else "picture.png")
    found = pictures.read(file)
    assert found.shape == (24, 36, 3)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, np.asarray(image.convert("RGB")), atol=1)


def test_transparency_lies_over_black(tmp_path):
    image = Image.fromarray(np.dstack([np.full((4, 4, 3), 200, np.uint8), np.full((4, 4), 128, np.uint8)]))
    assert pictures.read(saved(tmp_path, image)).max() == 100
    palette = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    palette.putpalette([250] * 768)
    assert pictures.read(saved(tmp_path, palette, transparency=0)).max() == 0


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_sixteen_bits_are_scaled(tmp_path, name):
    eight = smooth()[..., 0]
    file = tmp_path / name
    cv2.imwrite(str(file), eight.astype(np.uint16) * 257)
    np.testing.assert_array_equal(pictures.read(file)[..., 0], eight)


def test_sixteen_bits_of_colour_are_scaled(tmp_path):
    file = tmp_path / "colour.png"
    cv2.imwrite(str(file), smooth()[..., ::-1].astype(np.uint16) * 257)
    assert abs(pictures.read(file).mean() - smooth().mean()) < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, orientation):
    stored = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "one.tiff", exif=exif)
    np.testing.assert_array_equal(
        pictures.read(tmp_path / "one.tiff"), pictures.apply_orientation(stored, orientation=orientation)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_follows_the_annotated_size(tmp_path, orientation):
    file = with_orientation(tmp_path, orientation)
    with Image.open(file) as image:
        stored, upright = np.asarray(image), np.asarray(ImageOps.exif_transpose(image))
    ignoring = pictures.Config(exif="ignore")
    np.testing.assert_array_equal(pictures.read(file), upright)
    np.testing.assert_array_equal(pictures.read(file, reading=ignoring), stored)
    for reading, undecided in ((pictures.PLAIN, upright), (ignoring, stored)):
        found = pictures.read(file, size=stored.shape[:2], reading=reading)
        np.testing.assert_array_equal(found, undecided if upright.shape == stored.shape else stored)
        if upright.shape != stored.shape:
            np.testing.assert_array_equal(pictures.read(file, size=upright.shape[:2], reading=reading), upright)


def test_orientation_with_another_size_is_a_picture_error(tmp_path):
    with pytest.raises(PictureError, match="EXIF"):
        pictures.read(with_orientation(tmp_path, 6), size=(10, 10))


def grey(tmp_path, values, name="grey.png"):
    file = tmp_path / name
    cv2.imwrite(str(file), values)
    return file


def test_levels_say_which_values_are_black_and_white(tmp_path):
    values = np.array([[0, 1000, 2000], [3000, 4095, 5000]], np.uint16)
    file = grey(tmp_path, values)
    wanted = [[0, 62, 125], [187, 255, 255]]  # of 4095
    assert pictures.read(file, reading=pictures.Config(levels=(0.0, 4095.0)))[..., 0].tolist() == wanted
    thermal = pictures.Config(levels=(1000.0, 3000.0))
    assert pictures.read(file, reading=thermal)[..., 1].tolist() == [[0, 0, 128], [255, 255, 255]]
    floats = grey(tmp_path, np.array([[-1.5, 0.0, 1.5]], np.float32), "floats.tif")
    with pytest.raises(PictureError, match=r"go from -1.5 to 1.5; set reading.levels"):
        pictures.read(floats)
    assert pictures.read(floats, reading=pictures.Config(levels=(-1.5, 1.5)))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("levels", [(0.0,), (5.0, 5.0), (9.0, 1.0)])
def test_levels_that_are_no_range(levels):
    with pytest.raises(ConfigError, match=r"reading\.levels"):
        pictures.Config(levels=levels).validated()


def test_a_fourth_channel_that_is_no_transparency(tmp_path):
    image = Image.fromarray(np.dstack([np.full((4, 4, 3), 200, np.uint8), np.full((4, 4), 20, np.uint8)]))
    file = saved(tmp_path, image)
    assert pictures.read(file).max() == 16
    assert pictures.read(file, reading=pictures.Config(fourth="ignore")).min() == 200


def said_of(file, **reading):
    reading = pictures.Config(**reading)
    return pictures.why_dark_or_flat(file.read_bytes(), pictures.read(file, reading=reading), reading=reading)


def test_what_is_dark_or_flat_is_explained(tmp_path):
    assert said_of(saved(tmp_path, Image.fromarray(smooth()))) == ""
    twelve = grey(tmp_path, smooth()[..., 0].astype(np.uint16) * 16, "twelve.png")
    assert "of its 16 bits the values 0 to 3952 are used; reading.levels says" in said_of(twelve)
    assert said_of(twelve, levels=(0.0, 4095.0)) == ""
    thermal = grey(tmp_path, smooth()[..., 0].astype(np.uint16) + 7500, "thermal.png")
    assert "(7500, 7747)" in said_of(thermal)
    shaded = saved(tmp_path, Image.fromarray(np.dstack([smooth(), np.full((24, 36), 25, np.uint8)])), name="band.tif")
    assert "it is 10% as bright as without; reading.fourth='ignore'" in said_of(shaded)
    assert said_of(shaded, fourth="ignore") == ""
    night = saved(tmp_path, Image.fromarray(smooth() // 20), name="night.png")
    assert said_of(night) == "it is stored so (PNG, RGB)"


def test_what_is_no_picture_here_is_named(tmp_path):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    for name in ("a.heic", "a.jpg"):
        (tmp_path / name).write_bytes(heic)
        with pytest.raises(PictureError, match="is HEIC, which is not read here; convert it to JPEG or PNG"):
            pictures.read(tmp_path / name)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    file = saved(tmp_path, frames[0], name="moving.gif", save_all=True, append_images=frames[1:])
    assert pictures.read(file)[0, 0].tolist() == [255, 0, 0]


def jpeg_bytes():
    buffer = io.BytesIO()
    Image.fromarray(smooth(200, 300)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"this is no picture", "not a picture"),
        (jpeg_bytes()[: len(jpeg_bytes()) // 2], "does not decode"),
        (jpeg_bytes()[:30], "decode|not a picture"),
    ],
    ids=["empty", "text", "half", "header"],
)
def test_a_broken_file_is_a_picture_error(tmp_path, content, said):
    file = tmp_path / "broken.jpg"
    file.write_bytes(content)
    with pytest.raises(PictureError, match=said):
        pictures.read(file)


def test_a_truncated_png_is_a_picture_error(tmp_path):
    file = saved(tmp_path, Image.fromarray(smooth(200, 300)))
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(PictureError, match="does not decode"):
        pictures.read(file)


def test_what_is_no_file_is_a_picture_error(tmp_path):
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    for path in (tmp_path, tmp_path / "missing.jpg", tmp_path / ("long" * 100 + ".jpg"), loop):
        with pytest.raises(PictureError):
            pictures.read(path)


def test_an_unreadable_file_stops(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    with pytest.raises(DataError, match="permissions") as caught:
        pictures.read(tmp_path / "secret.jpg")
    assert not isinstance(caught.value, PictureError)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    file = tmp_path / "huge.png"
    Image.new("1", (20000, 10000)).save(file)
    with pytest.raises(PictureError, match="pixels"):
        pictures.read(file)


def test_a_single_pixel_is_refused(tmp_path):
    with pytest.raises(PictureError, match="single pixel"):
        pictures.read(saved(tmp_path, Image.new("RGB", (1, 1))))


def test_odd_names_are_read(tmp_path):
    file = saved(tmp_path, Image.fromarray(smooth()), name="Übung 1 — 写真.png")
    np.testing.assert_array_equal(pictures.read(file), smooth())


def test_the_size_comes_from_the_head_and_as_stored(tmp_path):
    content = with_orientation(tmp_path, 6).read_bytes()
    assert pictures.read_header(content, name="turned") == pictures.Header(24, 36, 6)
    assert pictures.read_header(content[:-10], name="cut").turned_size == (36, 24)
    assert pictures.decode(content, name="turned", size=(24, 36)).shape == (24, 36, 3)
    assert pictures.decode(content, name="turned").shape == (36, 24, 3)
    for wrong in (b"", b"no picture", content[:30]):
        with pytest.raises(PictureError, match="wrong is not a picture"):
            pictures.read_header(wrong, name="wrong")
