"""Vision transformers of random weights in each form of names: against a forward pass in numpy, in any canvas."""

import jax
import numpy as np
import pytest
import vit_scene
from jax import numpy as jnp

from jaxkd.errors import WeightsError
from jaxkd.loading import foundation
from jaxkd.types import Batch
from jaxkd.weights import read, vit

CASES = {  # form of the file: how it was drawn, and how the table of positions is resized
    "hf2": ({}, "plain"),
    "authors": ({}, "offset"),
    "authors registers": ({"registers": 3}, "antialias"),
    "hf2 registers": ({"registers": 2}, "antialias"),
    "hf3": ({"registers": 4, "rotary": True, "patch": 16}, "plain"),
    "authors 3": ({"registers": 4, "rotary": True, "patch": 16}, "offset"),
}


def saved(folder, case, **changes):
    drawn, resize = CASES[case]
    plain = vit_scene.weights(**drawn)
    file = folder / "vit.safetensors"
    arrays = vit_scene.named(plain, case.split()[0])
    if case == "authors 3":  # as DINOv3's authors name them: a mask says which biases count
        arrays["storage_tokens"] = arrays.pop("register_tokens")
        for block in range(vit_scene.DEPTH):
            name = f"blocks.{block}.attn.qkv.bias"
            mask = np.ones(3 * vit_scene.WIDTH, np.float32)
            mask[vit_scene.WIDTH : 2 * vit_scene.WIDTH] = 0
            arrays |= {f"{name}_mask": mask, name: np.where(mask > 0, arrays[name], 7.0)}
        arrays["rope_embed.periods"] = np.ones(16, np.float32)
    read.save(file, {**arrays, **changes})
    return file, plain, resize


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cells", [(5, 5), (3, 4), (7, 2)])
def test_is_the_slow_one(case, cells, tmp_path):
    file, plain, resize = saved(tmp_path, case)
    teacher = foundation.load(file)
    patch = teacher.detector.config.patch
    picture = np.random.default_rng(1).standard_normal((cells[0] * patch, cells[1] * patch, 3)).astype(np.float32)
    wanted = vit_scene.forward(plain, picture, patch=patch, resize=resize, eps=teacher.detector.config.eps)
    sizes = jnp.array([picture.shape[:2]])
    got = jax.jit(teacher.detector._net.apply)({"params": teacher.params}, picture[None], sizes)
    np.testing.assert_allclose(got[0], wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("case", ["hf2", "authors", "hf3"])
def test_a_larger_canvas_changes_nothing(case, tmp_path):
    teacher = foundation.load(saved(tmp_path, case)[0])
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (70, 100, 3)).astype(np.uint8)
    canvases = (batch_of(picture, side) for side in ((96, 128), (128, 192)))
    small, large = (teacher.detector.features(teacher.params, batch) for batch in canvases)
    for one, other, stride in zip(small.neck, large.neck, foundation.STRIDES, strict=True):
        rows, columns = -(-70 // stride), -(-100 // stride)
        np.testing.assert_allclose(one[0, :rows, :columns], other[0, :rows, :columns], atol=2e-5)
        assert not np.any(np.array(other)[0, rows:]) and not np.any(np.array(other)[0, :, columns:])
        assert one.shape[1:3] == (-(-96 // stride), -(-128 // stride))


def batch_of(picture, canvas):
    height, width = picture.shape[:2]
    images = np.zeros((1, *canvas, 3), np.uint8)
    images[0, :height, :width] = picture
    none = np.zeros((1, 1), bool)
    batch = Batch(
        images=images, sizes=np.array([[height, width]], np.int32), boxes=np.zeros((1, 1, 4), np.float32),
        labels=np.zeros((1, 1), np.int32), valid=none, crowd=none, ids=np.zeros(1, np.int32),
        scales=np.ones((1, 2), np.float32), real=np.ones(1, bool),
    )  # fmt: skip
    return jax.tree.map(jnp.asarray, batch)


def test_a_picture_of_one_colour_keeps_it_at_every_size():
    picture = np.full((50, 75, 3), 200, np.uint8)
    out = np.array(foundation.resized(batch_of(picture, (64, 96)), stride=32, patch=14))
    colour = (200 - np.array(foundation.PIXEL_MEAN)) / foundation.PIXEL_STD
    np.testing.assert_allclose(out[0, :21, :32], np.broadcast_to(colour, (21, 32, 3)), atol=1e-5)
    assert out.shape == (1, 28, 42, 3) and not np.any(out[0, 24:])


def test_files_under_a_prefix_and_in_a_checkpoint(tmp_path):
    file, plain, _ = saved(tmp_path, "hf2")
    arrays = {f"model.{name}": array for name, array in vit_scene.named(plain, "hf2").items()}
    read.save(tmp_path / "other.safetensors", arrays)
    one, other = foundation.load(file), foundation.load(tmp_path / "other.safetensors")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


REFUSED = {
    "gated": ({"blocks.0.mlp.w12.weight": np.zeros((4, 128), np.float32)}, "mlp.w12"),
    "no square": ({"pos_embed": np.zeros((1, 25, 128), np.float32)}, "25 positions"),
    "no patches": ({"patch_embed.proj.weight": np.zeros((128, 4, 14, 14), np.float32)}, "(14, 14, 4, 128)"),
    "narrow": ({"patch_embed.proj.weight": np.zeros((100, 3, 14, 14), np.float32)}, "width 100"),
    "short": ({"blocks.1.norm1.weight": np.zeros(64, np.float32)}, "block_1/norm1/scale has the shape (64,)"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_another_net_is_refused_in_one_sentence(fault, tmp_path):
    changes, words = REFUSED[fault]
    file, *_ = saved(tmp_path, "authors", **changes)
    with pytest.raises(WeightsError) as error:
        foundation.load(file)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_vision_transformer(tmp_path):
    read.save(tmp_path / "resnet.safetensors", {"layer1.0.conv1.weight": np.zeros((4, 4, 1, 1), np.float32)})
    assert not vit.is_vit(tmp_path / "resnet.safetensors")
    assert not vit.is_vit(tmp_path) and not vit.is_vit(tmp_path / "missing.safetensors")
    assert vit.is_vit(saved(tmp_path, "hf3")[0])


def test_weights_in_several_files_are_refused_and_a_folder_of_one_is_read(tmp_path):
    file, *_ = saved(tmp_path, "hf2")
    file.rename(tmp_path / "model.safetensors")
    assert foundation.is_one(tmp_path) and foundation.load(tmp_path).detector.config.depth == vit_scene.DEPTH
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="are in several files; save the model in one"):
        foundation.is_one(tmp_path)
