"""`jaxkd convert`: from a torch file to a folder that other commands take."""

import conftest
import numpy as np
import torch_writer
import torchvision_reference as reference

import jaxkd

NARROW = {"width": 16, "channels": 32, "hidden": 64}


def test_a_torch_file_becomes_a_folder(tmp_path):
    state = reference.random_state_dict("retinanet", 18, 1, 4, 7, **NARROW)
    torch_writer.save(tmp_path / "mine.pth", {"state_dict": state})
    folder = tmp_path / "teacher"
    outcome = conftest.call("convert", tmp_path / "mine.pth", f"--out={folder}", "--classes=cat,dog,cow")
    assert outcome.code == 0, outcome
    assert "torchvision retinanet: " in outcome.out and "3 classes: cat, dog, cow" in outcome.out
    assert "leaves matched" in (folder / "conversion.txt").read_text()
    assert jaxkd.load(folder).classes == ("cat", "dog", "cow")


def test_what_cannot_be_converted(tmp_path, refused):
    (tmp_path / "text.pth").write_text("no weights")
    refused(
        conftest.call("convert", tmp_path / "text.pth", f"--out={tmp_path / 'x'}"), 66, "text.pth", command="convert"
    )
    torch_writer.save(tmp_path / "other.pth", {"encoder.weight": np.ones((2, 2), np.float32)})
    outcome = conftest.call("convert", tmp_path / "other.pth", f"--out={tmp_path / 'x'}")
    refused(outcome, 66, "no detector known here", "encoder.weight", command="convert")
    refused(conftest.call("convert", tmp_path / "text.pth"), 64, "--out=DIR", command="convert")
    assert not (tmp_path / "x").exists()
