import pytest
from PIL import Image

from jaxkd.data import formats, pictures


@pytest.mark.parametrize("suffix", formats.PICTURES)
def test_what_counts_as_a_picture_is_read(tmp_path, suffix):
    file, image = tmp_path / f"a{suffix.upper()}", Image.new("RGB", (12, 8), "red")
    kind = Image.registered_extensions()[suffix]
    if kind == "QOI":  # which not every Pillow writes: a header, one red pixel and a run of it
        head = b"qoif" + bytes([0, 0, 0, 12, 0, 0, 0, 8, 3, 0])
        file.write_bytes(head + bytes([0xFE, 255, 0, 0, 0xFD, 0xE0]) + bytes(7) + b"\1")
    else:
        image.convert({".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")).save(file, kind)
    assert formats.kind_of(file) == formats.PICTURE
    assert pictures.read(file).shape == (8, 12, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_a_picture_without_a_suffix_is_known_by_its_first_bytes(tmp_path, kind):
    Image.new("RGB", (12, 8)).save(tmp_path / "scan", kind)
    assert formats.kind_of(tmp_path / "scan") == formats.PICTURE


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.heic", b"", "HEIC"),
        ("photo", b"\0\0\0\x18ftypheic\0\0\0\0mif1", "HEIC"),
        ("a.JXL", b"", "JPEG XL"),
        ("scan", b"\xff\x0a....", "JPEG XL"),
        ("a.NEF", b"II*\0", "a camera's raw format"),
        ("a.svg", b"<svg>", "SVG, a drawing"),
        ("a.psd", b"8BPS", "the file of an image editor"),
        ("notes.txt", b"\xff\xd8\xff", ""),
        ("film.mp4", b"", ""),
        ("data", b"hello", ""),
        ("empty", b"", ""),
    ],
)
def test_other_files(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert formats.kind_of(tmp_path / name) == kind
