"""Nets under prefixes, in mappings, several in one file."""

import pickle

import numpy as np
import pytest
import torch_writer
from torch_writer import Call, Global, Outside, view

from jaxkd.errors import WeightsError
from jaxkd.weights import parts, read


def net(shift=0.0):
    """Some arrays that are named as a detector's of torchvision."""
    names = ("backbone.body.conv1.weight", "backbone.fpn.inner_blocks.0.0.weight", "rpn.head.cls_logits.bias")
    return {name: np.full((2, 3), index + shift, np.float32) for index, name in enumerate(names)}


DETECTRON2 = {"backbone.fpn_lateral2.weight": np.ones(2, np.float32), "backbone.bottom_up.x": np.ones(2, np.float32)}
MMDETECTION = {"neck.lateral_convs.0.conv.weight": np.ones(2, np.float32), "rpn_head.x": np.ones(2, np.float32)}
RESNET = {"conv1.weight": np.ones(2, np.float32), "layer1.0.conv1.weight": np.ones(2, np.float32)}
MOBILENET = {"features.1.conv.0.0.weight": np.ones(2, np.float32), "features.0.0.weight": np.ones(2, np.float32)}
TIMM = {"blocks.2.0.pw_exp.conv.weight": np.ones(2, np.float32), "conv_stem.weight": np.ones(2, np.float32)}
CAFFE = {"res2_0_branch2a_w": np.ones(2, np.float32), "conv1_w": np.ones(2, np.float32)}


def under(prefix, arrays):
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def write(path, value):
    """The value in the file's form; those without mappings take its named arrays only."""
    if path.suffix in (".pth", ".ckpt"):
        torch_writer.save(path, value)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(value, 2))
    elif path.suffix == ".npz":
        np.savez(path, **value)
    else:
        read.save(path, value)
    return path


def same(part, wanted):
    assert set(part.arrays) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(part.arrays[name], array)


PREFIXES = (
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "model._orig_mod.",
    "module.model.student._orig_mod.",
    "_fsdp_wrapped_module._checkpoint_wrapped_module.",
    "detector.net.0.",
)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".pkl", ".npz", ".safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_taken_off_and_said(tmp_path, prefix, suffix):
    beside = {"loss.weight": np.ones(2, np.float32), "n_averaged": np.array(3)}
    part = parts.read_net(write(tmp_path / f"a{suffix}", under(prefix, net()) | beside))
    same(part, net())
    assert (part.kind, part.location, sorted(part.unused)) == ("detector", f"under {prefix}", sorted(beside))
    assert part.notes == (f"Not used are 2 array(s) beside these: {', '.join(part.unused)}.",)


@pytest.mark.parametrize("arrays", [net(), DETECTRON2, MMDETECTION, RESNET, MOBILENET, TIMM, CAFFE])
def test_every_known_net_is_found_under_a_prefix(tmp_path, arrays):
    plain, wrapped = (write(tmp_path / f"x{name}npz", under(name[1:], arrays)) for name in (".", ".a.module."))
    same(parts.read_net(plain), arrays)
    same(parts.read_net(wrapped), arrays)
    assert parts.read_net(plain).location == "" and parts.read_net(plain).notes == ()
    assert parts.read_net(plain).kind == (
        "detector" if arrays.keys() & {*net(), *DETECTRON2, *MMDETECTION} else "backbone"
    )


def test_wrappers_of_a_part_of_the_net_are_taken_off(tmp_path):
    """As torch.compile leaves names where only the backbone is compiled."""
    inner = {name.replace("backbone.", "backbone._orig_mod.module."): array for name, array in net().items()}
    same(parts.read_net(write(tmp_path / "a.npz", inner)), net())
    same(parts.read_net(write(tmp_path / "b.npz", under("model.", inner))), net())
    with pytest.raises(WeightsError, match="are the same weight; keep one"):
        parts.read_net(write(tmp_path / "c.npz", net() | {"rpn.module.head.cls_logits.bias": np.ones(2)}))


@pytest.mark.parametrize(
    ("value", "where", "label"),
    [
        ({"state_dict": under("model.", net())}, "under model. in state_dict", None),
        ({"model": net(), "ema": under("module.", net(1))}, "in model", "ema"),
        ({"model": net(), "model_ema": net(1)}, "in model", "model_ema"),
        ({"ema": {"module": net(1), "updates": 3}, "model": net()}, "in model", "ema"),
        ({"state_dict": net(), "ema_state_dict": under("module.", net(1))}, "in state_dict", "ema_state_dict"),
        ({**net(), "ema": net(1)}, "", "ema"),
        ({"checkpoint": {"weights": net()}}, "in checkpoint.weights", None),
        ({"models": [net(), {"loss": 1}]}, "in models.0", None),
    ],
)
def test_weights_are_found_in_mappings_and_others_are_named(tmp_path, value, where, label):
    path = write(tmp_path / "a.pth", value)
    part = parts.read_net(path)
    same(part, net())
    assert part.location == where
    if label is None:
        assert part.notes == ()
        return
    assert part.notes[0] == (
        f"The file also holds {label}; to take that instead, name it as a.pth:{label} or by --part={label} of jaxkd "
        "convert."
    )
    same(parts.read_net(path, part=label), net(1))


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_of_two_detectors_one_has_to_be_named(tmp_path, suffix):
    arrays = under("module.student.", net()) | under("module.teacher._orig_mod.", net(1))
    path = write(tmp_path / f"a{suffix}", arrays)
    with pytest.raises(WeightsError) as refusal:
        parts.read_net(path)
    assert str(refusal.value) == (
        f"{path} holds 2 detectors: student, teacher; name one, as a{suffix}:student or by --part=student of jaxkd "
        "convert."
    )
    for name in ("student", "module.student", "student."):
        same(parts.read_net(path, part=name), net())
    for name in ("teacher", "module.teacher._orig_mod"):
        same(parts.read_net(path, part=name), net(1))
    for name in ("teach", "module", ""):
        with pytest.raises(WeightsError, match=f"has no part '{name}'; there is student, teacher"):
            parts.read_net(path, part=name)


def test_mappings_that_tell_nothing_are_not_chosen_between(tmp_path):
    path = write(tmp_path / "a.pth", {"student": net(), "teacher": net(1)})
    with pytest.raises(WeightsError, match="holds 2 detectors: student, teacher"):
        parts.read_net(path)
    same(parts.read_net(path, part="teacher"), net(1))
    same(parts.read_net(write(tmp_path / "c.pth", {"state_dict": under("model.", net())}), part="model"), net())
    path = write(tmp_path / "b.pth", {"encoder_q": RESNET, "encoder_k": RESNET})
    with pytest.raises(WeightsError, match="holds 2 backbones: encoder_q, encoder_k"):
        parts.read_net(path)


def test_a_net_beside_a_net_under_a_prefix(tmp_path):
    """The student's names as they are, and its teacher's among them."""
    path = write(tmp_path / "a.npz", net() | under("teacher.", net(1)))
    with pytest.raises(WeightsError, match=r"holds 2 detectors: '' \(names with nothing before them\), teacher"):
        parts.read_net(path)
    same(parts.read_net(path, part=""), net())
    same(parts.read_net(path, part="teacher"), net(1))
    with pytest.raises(WeightsError, match="nothing before them; leave the part 'x' out"):
        parts.read_net(write(tmp_path / "b.npz", net()), part="x")


def test_backbones_do_not_count_beside_detectors(tmp_path):
    arrays = under("model.", net()) | under("encoder.", RESNET)
    part = parts.read_net(write(tmp_path / "a.npz", arrays))
    assert (part.kind, part.location, len(part.unused)) == ("detector", "under model.", 2)


def test_classes_and_objects_of_a_checkpoint(tmp_path):
    history = Call(Global("mine", "History"), (np.ones(3, np.float32),))
    value = {"state_dict": net(), "meta": {"dataset_meta": {"classes": ("cat", "dog")}, "cfg": "x = 1"}, "hub": history}
    part = parts.read_net(write(tmp_path / "a.pth", value))
    assert part.classes == ("cat", "dog") and part.metadata == {"cfg": "x = 1"}
    assert part.notes == ("Not read are objects of mine.History, with 1 array(s) in them.",)
    for meta in ({"CLASSES": ["cat", "dog"]}, {"CLASSES": ("cat", "dog"), "PALETTE": [(1, 2, 3)]}):
        assert parts.read_net(write(tmp_path / "b.pth", {"state_dict": net(), "meta": meta})).classes == ("cat", "dog")
    for meta in ({"CLASSES": "cat"}, {"CLASSES": ()}, {"CLASSES": (1, 2)}, None):
        assert parts.read_net(write(tmp_path / "c.pth", {"state_dict": net(), "meta": meta})).classes == ()


def test_a_weight_that_is_an_object_is_refused_and_other_objects_are_not(tmp_path):
    odd = Outside(("storage", Global("torch", "QInt8Storage"), "9", "cpu", 4))
    state = {**under("model.", net()), "model.head._extra_state": Call(Global("mine", "State"), ())}
    same(parts.read_net(write(tmp_path / "a.pth", {"state_dict": state})), net())
    for name in ("model.rpn.weight", "model.rpn.bias"):
        path = write(tmp_path / "b.pth", {"state_dict": state | {name: view(odd, 0, (4,), (1,))}})
        with pytest.raises(WeightsError, match=f"holds {name} as an object of torch.QInt8Storage, which is not read"):
            parts.read_net(path)
    path = write(tmp_path / "c.pth", {"state_dict": state | {"loss.weight": view(odd, 0, (4,), (1,))}})
    same(parts.read_net(path), net())


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones(2, np.int8), "int8 numbers"),
        (np.ones(0, np.float32), "no numbers"),
        (np.array([1, np.nan], np.float32), "not finite"),
        (np.array([1, 1e300]), "not finite"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(tmp_path, array, words):
    path = write(tmp_path / "a.npz", under("model.", net() | {"rpn.bias": array}))
    with pytest.raises(WeightsError, match=words):
        parts.read_net(path)
    counters = {"bn.num_batches_tracked": np.array(3)}
    same(
        parts.read_net(write(tmp_path / "b.npz", net() | counters | {"x.y": np.ones(1)})),
        net() | counters | {"x.y": [1]},
    )


def test_what_is_no_net_known_here_is_named_and_so_is_what_is_known(tmp_path):
    path = write(tmp_path / "a.pth", {"other": {"encoder.weight": np.ones(2, np.float32)}})
    with pytest.raises(WeightsError, match=r"encoder\.weight.*torchvision, detectron2 and mmdetection.*resnet, mobil"):
        parts.read_net(path)
    ours = write(tmp_path / "weights.safetensors", {"backbone/conv1/kernel": np.ones(2, np.float32)})
    with pytest.raises(WeightsError, match=f"give its folder {tmp_path}"):
        parts.read_net(ours)
    backbone = {"conv1/kernel": np.ones(2, np.float32)}
    same(parts.read_net(write(tmp_path / "b.safetensors", backbone)), backbone)
    with pytest.raises(WeightsError, match="no weights by name"):
        parts.read_net(write(tmp_path / "c.pth", {"epoch": 3}))


def test_a_part_is_named_behind_a_colon(tmp_path):
    (tmp_path / "a.pth").touch()
    (tmp_path / "b:c.pth").touch()
    assert parts.split(tmp_path / "a.pth") == (tmp_path / "a.pth", None)
    assert parts.split(f"{tmp_path}/a.pth:ema.module") == (tmp_path / "a.pth", "ema.module")
    assert parts.split(f"{tmp_path}/a.pth:") == (tmp_path / "a.pth", "")
    assert parts.split(f"{tmp_path}/b:c.pth") == (tmp_path / "b:c.pth", None)
    assert parts.split(f"{tmp_path}/b:c.pth:x") == (tmp_path / "b:c.pth", "x")
    assert parts.split(f"{tmp_path}/none.pth:x") == (tmp_path / "none.pth:x", None)
    assert parts.split(tmp_path) == (tmp_path, None)
