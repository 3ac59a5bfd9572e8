"""MGD: beside a slow form without hidden cells, the share that is hidden, and draws of each picture."""

import distill_scene as scenes
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import levels, masked_generative

CONFIG = masked_generative.Config(weight=0.5, hidden=0.0)


@pytest.fixture(scope="module")
def scene():
    return scenes.scene(student=2, teacher=3)


def convolved(x, params):
    """3 x 3 cells of a map [h w c], with zeros beyond its edges."""
    padded, kernel = np.pad(x, ((1, 1), (1, 1), (0, 0))), np.asarray(params["kernel"], np.float64)
    height, width = x.shape[:2]
    parts = [padded[i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)]
    return sum(parts) + np.asarray(params["bias"])


def test_without_hidden_cells_as_a_loop_has_it(scene):
    params = scenes.parameters(masked_generative, CONFIG, scene)
    found = masked_generative.losses(CONFIG, params, scenes.inputs(scene)).terms
    assert set(found) == {"feature_4", "feature_8"}
    for index, stride in enumerate((4, 8)):
        total, adapter = 0.0, params[f"adapter_{stride}"]
        for picture, (height, width) in enumerate(((scenes.SIDE, scenes.SIDE), (100, 111))):
            rows, columns = -(-height // stride), -(-width // stride)
            student, teacher = (
                np.asarray(view.features.neck[index], np.float64)[picture, :rows, :columns]
                for view in (scene.student, scene.teacher)
            )
            adapted = student @ np.asarray(adapter["kernel"], np.float64)[0, 0] + np.asarray(adapter["bias"])
            made = np.maximum(convolved(adapted, params[f"generator_{stride}_0"]), 0)
            made = convolved(made, params[f"generator_{stride}_1"])
            total += 0.5 * ((made - teacher) ** 2).sum() / 2
        np.testing.assert_allclose(found[f"feature_{stride}"].mean(), total, rtol=1e-4)


def test_hidden_cells_are_drawn_for_each_picture(scene):
    inputs = scenes.inputs(scene)
    mask = jnp.ones((2, 64, 64))
    level = levels.Level(4, mask[..., None], mask[..., None], mask)
    seen = masked_generative._seen(inputs.replace(key=jax.random.key(0)), level, hidden=0.45)
    assert abs(float(seen.mean()) - 0.55) < 0.02 and (seen[0] != seen[1]).any()
    turned = inputs.replace(batch=inputs.batch.replace(ids=inputs.batch.ids[::-1]), key=jax.random.key(0))
    np.testing.assert_array_equal(masked_generative._seen(turned, level, hidden=0.45), seen[::-1])
    assert (masked_generative._seen(inputs.replace(key=jax.random.key(1)), level, hidden=0.45) != seen).any()


def test_the_generator_learns(scene):
    config = masked_generative.Config(weight=1e-3)
    params = scenes.parameters(masked_generative, config, scene)

    @jax.jit
    def step(params):
        def total(params):
            terms = masked_generative.losses(config, params, scenes.inputs(scene)).terms
            return sum(term.mean() for term in terms.values())

        value, slopes = jax.value_and_grad(total)(params)
        return value, jax.tree.map(lambda leaf, slope: leaf - 0.01 * slope, params, slopes)

    first, params = step(params)
    for _ in range(20):
        last, params = step(params)
    assert last < 0.9 * first
