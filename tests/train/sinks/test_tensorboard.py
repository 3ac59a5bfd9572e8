"""Event files: what is in them, and that no step is shown twice. They are read here as their format says."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxkd.errors import ConfigError
from jaxkd.train.sinks.base import Sink
from jaxkd.train.sinks.tensorboard import FILES, TensorBoard


def events(folder):
    """The events of a folder, without those that a later file takes back."""
    found = []
    for file in sorted(folder.glob(FILES)):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            if event.session_log.status == SessionLog.START:
                found = [one for one in found if one.step < event.step]
            found.append(event)
            content = content[16 + length :]
    return found


def points(folder):
    return [(event.step, value.tag, value.simple_value) for event in events(folder) for value in event.summary.value]


def shown(folder, start, *steps, earlier=()):
    sink = TensorBoard(folder)
    said = sink.begin(start, earlier)
    for step in steps:
        sink.scalars(step, {"train/loss": float(step)})
    sink.close()
    return said


def test_points_text_and_pictures(tmp_path):
    folder = tmp_path / "tensorboard"
    sink = TensorBoard(folder)
    assert isinstance(sink, Sink)
    assert sink.begin(0, []) == f"TensorBoard shows the run: tensorboard --logdir={folder}"
    sink.text("recipe", '{\n "steps": 4\n}')
    sink.scalars(2, {"train/loss": 0.5, "val/AP": 0.25})
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    sink.pictures(2, {"pictures/7": image})
    sink.close()
    found = {value.tag: (event.step, value) for event in events(folder) for value in event.summary.value}
    assert set(found) == {"recipe/text_summary", "train/loss", "val/AP", "pictures/7"}
    assert found["recipe/text_summary"][1].tensor.string_val[0].decode() == '    {\n     "steps": 4\n    }'
    assert (found["train/loss"][0], found["train/loss"][1].simple_value) == (2, 0.5)
    with Image.open(io.BytesIO(found["pictures/7"][1].image.encoded_image_string)) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), image)


def test_a_run_that_goes_on_takes_back_what_it_does_again(tmp_path):
    shown(tmp_path, 0, 2, 4, 6)
    shown(tmp_path, 4, 6, 8, earlier=[(2, {"train/loss": 9.0}), (4, {"train/loss": 9.0})])
    assert points(tmp_path) == [(step, "train/loss", float(step)) for step in (2, 4, 6, 8)]


def test_a_run_that_begins_anew_takes_back_all(tmp_path):
    shown(tmp_path, 0, 0, 2, 4)
    shown(tmp_path, 0, 2)
    assert points(tmp_path) == [(2, "train/loss", 2.0)]


def test_a_run_that_is_shown_from_its_middle_has_its_beginning(tmp_path):
    shown(tmp_path, 4, 6, earlier=[(2, {"train/loss": 2.0}), (4, {"train/loss": 4.0, "val/AP": 0.5})])
    assert [(step, tag) for step, tag, _ in points(tmp_path)] == [
        (2, "train/loss"),
        (4, "train/loss"),
        (4, "val/AP"),
        (6, "train/loss"),
    ]


def test_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"--tensorboard needs .*; pip install 'jaxkd-detection\[tensorboard\]'\.$"):
        TensorBoard(tmp_path / "tensorboard")
    assert not (tmp_path / "tensorboard").exists()
