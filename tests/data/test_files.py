"""Pictures to predict on: files, folders, videos and arrays, each read once and in order."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxkd.data import files, pictures
from jaxkd.data.base import PictureError
from jaxkd.errors import ConfigError, DataError


def picture(file: Path, *, height: int = 20, width: int = 30, value: int = 90) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((height, width, 3), value, np.uint8))
    return file


def video(file: Path, *, count: int = 7) -> Path:
    """A grey video of 5 frames a second, each frame brighter than the one before."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    for number in range(count):
        writer.write(np.full((64, 96, 3), min(20 + 30 * number, 255), np.uint8))
    writer.release()
    return file


def read(*origins, **more):
    return list(files.read(origins, lambda frame: frame, **more))


def test_files_and_arrays_in_their_order(tmp_path):
    paths = [picture(tmp_path / "b.png"), picture(tmp_path / "a ü.png", height=8, value=7)]
    array = np.full((4, 5, 3), 3, np.uint8)
    frames = read(paths[0], array, str(paths[1]))
    assert [(frame.file, frame.image.shape[:2], int(frame.image.max())) for frame in frames] == [
        (str(paths[0]), (20, 30), 90),
        ("", (4, 5), 3),
        (str(paths[1]), (8, 30), 7),
    ]
    assert all((frame.number, frame.seconds) == (None, None) for frame in frames)


def test_each_file_is_read_once_and_turned_as_it_is_meant(tmp_path, monkeypatch):
    file, seen, decode = tmp_path / "turned.jpg", [], pictures.decode
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.new("RGB", (30, 20), "red").save(file, exif=exif)
    monkeypatch.setattr(
        pictures, "decode", lambda content, **more: seen.append(more["name"]) or decode(content, **more)
    )
    (frame,) = read(file)
    assert frame.image.shape == (30, 20, 3) and seen == [str(file)]


def test_folders_are_searched_in_order(tmp_path):
    wanted = [picture(tmp_path / name) for name in ("a.png", "c.JPG", "b/d/e.bmp", "b/f.webp")]
    for name in (".hidden.png", "b/.cache/g.png", "out/0001_a.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = list(files.expand_folders([tmp_path], exclude=tmp_path / "b" / ".." / "out"))
    assert found == [wanted[0], wanted[1], wanted[3], wanted[2]]
    assert len(list(files.expand_folders([str(tmp_path), wanted[0]]))) == 6
    assert [frame.file for frame in read(tmp_path / "b")] == [str(wanted[3]), str(wanted[2])]
    with pytest.raises(ConfigError, match="cannot be both searched and written to"):
        list(files.expand_folders([tmp_path], exclude=tmp_path))


def test_linked_folders_are_searched_once(tmp_path):
    wanted = [picture(tmp_path / "in" / "b" / "1.png"), picture(tmp_path / "elsewhere" / "2.png")]
    for name, place in (("a", wanted[0].parent), ("c", wanted[1].parent), ("round", tmp_path / "in"), ("self", "self")):
        (tmp_path / "in" / name).symlink_to(place)
    assert list(files.expand_folders([tmp_path / "in"])) == [wanted[0], tmp_path / "in" / "c" / "2.png"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    file, closed = picture(tmp_path / "a.png"), picture(tmp_path / "closed" / "b.png").parent

    def guarded(function):
        def call(folder):
            if Path(folder) == closed:
                raise PermissionError(13, "Permission denied", str(folder))
            return function(folder)

        return call

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    paths = list(files.expand_folders([tmp_path]))
    assert paths == [file, closed]
    fault = read(*paths)[1]
    assert str(fault) == f"The folder {closed} may not be read (Permission denied); change its permissions."


def test_what_cannot_be_read_says_why_and_stops_nothing(tmp_path):
    broken, empty = tmp_path / "broken.png", tmp_path / "empty"
    broken.write_text("no picture")
    empty.mkdir()
    good, bad = picture(tmp_path / "good.png"), tmp_path / "bad.mp4"
    bad.write_text("no video")
    found = read(
        broken, tmp_path / "missing.png", empty, bad, tmp_path / "missing.avi", good, np.zeros((2, 2), np.uint8)
    )
    assert [type(one) for one in found] == [PictureError] * 5 + [files.Frame, DataError]
    for one, words in zip(
        found,
        ("broken.png is not", "no picture", "holds no picture", "bad.mp4 is no video", "missing.avi does not exist"),
        strict=False,
    ):
        assert words in str(one) and str(one).endswith(".")
    assert "uint8 array" in str(found[-1])


def test_frames_of_a_video_with_their_times(tmp_path):
    clip = video(tmp_path / "clip.avi")
    frames = read(clip)
    assert [frame.number for frame in frames] == list(range(7))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 5 for number in range(7)])
    assert [round(float(frame.image.mean())) for frame in frames] == pytest.approx(
        [20 + 30 * n for n in range(7)], abs=3
    )
    assert {frame.file for frame in frames} == {str(clip)}
    thinned = read(clip, picture(tmp_path / "a.png"), clip, every=3)
    assert [frame.number for frame in thinned] == [0, 3, 6, None, 0, 3, 6]


def test_a_video_that_ends_early_is_said_to(tmp_path):
    clip = video(tmp_path / "clip.avi", count=60)
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])
    *frames, last = read(clip)
    assert 10 < len(frames) < 40 and all(isinstance(frame, files.Frame) for frame in frames)
    assert str(last) == f"{clip} ends after {len(frames)} of its 60 frames, which were taken; copy it again."


@pytest.mark.parametrize(
    ("number", "seconds", "wanted", "rate", "early"),
    [
        (40, 4.0, 100, 10.0, True),
        (96, 9.6, 100, 10.0, False),
        (4, 0.4, 8, 10.0, False),  # a few
        (40, 9.9, 100, 10.0, False),  # its frames are not equally long
        (40, 0.0, 100, 0.0, True),
        (40, 4.0, -9, 10.0, False),
        (40, 4.0, 0, 0.0, False),
    ],
)
def test_when_a_video_ends_early(number, seconds, wanted, rate, early):
    assert files._ends_early(number, seconds, expected=wanted, rate=rate) is early


def test_colours_of_a_video_are_in_the_order_of_a_picture(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 64))
    writer.write(np.full((64, 64, 3), (0, 0, 250), np.uint8))
    writer.release()
    (frame,) = read(tmp_path / "red.avi")
    assert frame.image[..., 0].mean() > 200 > 60 > frame.image[..., 2].mean()


def test_how_many_there_are_to_come(tmp_path):
    clip = video(tmp_path / "clip.avi")
    assert [files.count(clip, every=every) for every in (1, 3, 7, 8)] == [7, 3, 1, 1]
    assert [files.count(origin) for origin in (tmp_path / "a.png", tmp_path / "missing.mp4", np.zeros(3))] == [1, 1, 1]


def test_only_a_few_pictures_are_read_ahead(tmp_path):
    file, taken = picture(tmp_path / "a.png"), []

    def endless():
        while True:
            taken.append(file)
            yield file

    frames = files.read(endless(), lambda frame: frame, depth=4)
    for _ in range(20):
        next(frames)
    assert len(taken) <= 26
