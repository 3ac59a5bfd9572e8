"""Beside `transformers`, where it is installed: DINOv2 with and without registers, and DINOv3, from random configs."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.loading import foundation

transformers = pytest.importorskip("transformers", reason="transformers and torch are not installed")
torch = pytest.importorskip("torch", reason="transformers and torch are not installed")

SMALL = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
NETS = {
    "dinov2": ("Dinov2", SMALL | {"patch_size": 14, "image_size": 518}),
    "dinov2 registers": ("Dinov2WithRegisters", SMALL | {"patch_size": 14, "image_size": 518}),
    "dinov3": ("DINOv3ViT", SMALL | {"patch_size": 16, "intermediate_size": 1536, "num_register_tokens": 4}),
}


@pytest.mark.parametrize("cells", [(37, 37), (16, 16), (9, 14)])
@pytest.mark.parametrize("net", NETS)
def test_tokens_of_patches_are_those_of_transformers(net, cells, tmp_path):
    name, fields = NETS[net]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**fields)).eval()
    for parameter in model.parameters():  # freshly drawn ones leave biases and tokens at 0
        parameter.data += 0.02 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    teacher = foundation.load(tmp_path / "model.safetensors")
    sides = [side * fields["patch_size"] for side in cells]
    picture = np.random.default_rng(0).standard_normal((1, *sides, 3)).astype(np.float32)
    with torch.no_grad():
        tokens = model(torch.tensor(picture).permute(0, 3, 1, 2)).last_hidden_state
    wanted = tokens[:, 1 + getattr(model.config, "num_register_tokens", 0) :].reshape(*cells, -1).numpy()
    got = jax.jit(teacher.detector._net.apply)({"params": teacher.params}, jnp.asarray(picture), jnp.array([sides]))
    np.testing.assert_allclose(got[0], wanted, atol=1e-4)
