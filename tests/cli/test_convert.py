"""`jaxkd convert`: from a torch file to a folder that other commands take."""

import numpy as np
import projects
import pytest
import torch_writer
import torchvision_reference as reference
from torch_writer import Call, Global

import jaxkd
from jaxkd.loading import build

NARROW = {"width": 8, "channels": 16, "hidden": 32}


@pytest.fixture(scope="module")
def state():
    return reference.random_state_dict("faster_rcnn", 18, 1, 3, 7, **NARROW)


def convert(path, folder, *flags):
    return projects.call("convert", path, f"--out={folder}", *flags)


def test_a_torch_file_becomes_a_folder(tmp_path):
    state = reference.random_state_dict("retinanet", 18, 1, 4, 7, **NARROW)
    torch_writer.save(tmp_path / "mine.pth", {"state_dict": state})
    folder = tmp_path / "teacher"
    outcome = projects.call("convert", tmp_path / "mine.pth", f"--out={folder}", "--classes=cat,dog,cow")
    assert outcome.code == 0, outcome
    assert "torchvision retinanet: " in outcome.out and "3 classes: cat, dog and cow" in outcome.out
    assert "leaves matched" in (folder / "conversion.txt").read_text()
    assert jaxkd.load(folder).classes == ("cat", "dog", "cow")


def test_wrapped_and_old_files_become_the_same_folder(tmp_path, state):
    """Compiled in a Lightning module beside a loss; torch's older form; torchvision's own checkpoint with objects."""
    torch_writer.save(tmp_path / "plain.pth", state)
    compiled = {f"model._orig_mod.{name}": array for name, array in state.items()}
    torch_writer.save(tmp_path / "wrapped.ckpt", {"state_dict": compiled | {"loss.weight": np.ones(2, np.float32)}})
    (tmp_path / "old.pth").write_bytes(torch_writer.legacy(state))
    counter = Call(Global("collections", "Counter"), ({16: 1},))
    arguments = Call(Global("argparse", "Namespace"), (), {"lr": 0.02})
    torch_writer.save(
        tmp_path / "full.pth", {"model": state, "lr_scheduler": {"milestones": counter}, "args": arguments}
    )
    outcomes = {
        name: convert(tmp_path / name, tmp_path / name.replace(".", "_"), "--classes=cat,dog")
        for name in ("plain.pth", "wrapped.ckpt", "old.pth", "full.pth")
    }
    assert all(outcome.code == 0 for outcome in outcomes.values()), outcomes
    contents = {(tmp_path / name.replace(".", "_") / build.WEIGHTS).read_bytes() for name in outcomes}
    assert len(contents) == 1
    assert "130 leaves matched under model._orig_mod. in state_dict." in outcomes["wrapped.ckpt"].out
    assert "Not used are 1 array(s) beside these: state_dict.loss.weight." in outcomes["wrapped.ckpt"].out
    assert "Not read are objects of collections.Counter, argparse.Namespace." in outcomes["full.pth"].out
    rows = (tmp_path / "wrapped_ckpt" / "conversion.txt").read_text().splitlines()
    assert rows[0] == "wrapped.ckpt: torchvision faster_rcnn: 130 leaves matched under model._orig_mod. in state_dict"
    assert rows[-1] == "unused    state_dict.loss.weight"
    assert "no leaf   backbone.body.bn1.num_batches_tracked" in rows
    assert any(row.startswith("Epsilon of the backbone's norms: 1e-05") for row in rows)
    assert any(row.startswith("Anchors of 32, 64, 128, 256, 512 pixels") for row in rows)


def test_what_no_array_says_can_be_given(tmp_path, state, refused):
    torch_writer.save(
        tmp_path / "a.pth", {"model": state, "ema": {name: np.asarray(2 * array) for name, array in state.items()}}
    )
    flags = ("--classes=cat,dog", "--part=ema", "--eps=0", "--anchors=8,16,32,64,128", "--ratios=0.4,1,2.5")
    outcome = convert(tmp_path / "a.pth", tmp_path / "x", *flags)
    assert outcome.code == 0, outcome
    config = build.load_shapes(tmp_path / "x").config
    assert config.anchors.sizes == (8.0, 16.0, 32.0, 64.0, 128.0) and config.anchors.ratios == (0.4, 1.0, 2.5)
    assert config.backbone.eps == 0.0 and "Epsilon of the backbone's norms: 0, as given." in outcome.out
    assert "Anchors" not in outcome.out and "The file also holds model" in outcome.out
    for flag, words in (
        ("--anchors=8,x", "--anchors wants numbers above 0"),
        ("--ratios=0,1,2", "--ratios wants numbers above 0"),
        ("--anchors=8,16", "anchors.sizes has 2 entries"),
        ("--eps=-1", "eps"),
        ("--classes=cat,cat", "each has to be there, and once"),
    ):
        outcome = convert(tmp_path / "a.pth", tmp_path / "y", "--classes=cat,dog", flag)
        refused(outcome, 64, words, command="convert")
    refused(
        convert(tmp_path / "a.pth", tmp_path / "y"), 66, "2 classes and no names", "--classes=a,b,c", command="convert"
    )
    refused(
        convert(tmp_path / "a.pth", tmp_path / "y", "--part=x"),
        66,
        "no part 'x'; there is model, ema",
        command="convert",
    )
    assert not (tmp_path / "y").exists()


def test_what_cannot_be_converted(tmp_path, refused):
    (tmp_path / "text.pth").write_text("no weights")
    refused(
        projects.call("convert", tmp_path / "text.pth", f"--out={tmp_path / 'x'}"), 66, "text.pth", command="convert"
    )
    torch_writer.save(tmp_path / "other.pth", {"encoder.weight": np.ones((2, 2), np.float32)})
    outcome = projects.call("convert", tmp_path / "other.pth", f"--out={tmp_path / 'x'}")
    refused(outcome, 66, "no detector known here", "encoder.weight", "torchvision, detectron2", command="convert")
    refused(projects.call("convert", tmp_path / "text.pth"), 64, "--out=DIR", command="convert")
    torch_writer.save(tmp_path / "module.pth", Call(Global("mine", "Net"), ()))
    refused(convert(tmp_path / "module.pth", tmp_path / "x"), 66, "an object of mine.Net", command="convert")
    assert not (tmp_path / "x").exists()
