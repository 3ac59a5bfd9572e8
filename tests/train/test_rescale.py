import pytest

from jaxkd.config import load_recipe
from jaxkd.errors import ConfigError
from jaxkd.train.rescale import rescale


def test_epochs_stay_and_the_learning_rate_follows_the_batch():
    recipe = load_recipe("coco", "faster_rcnn-r50")
    rescale(recipe, 256)
    assert (recipe.train.batch, recipe.train.steps, recipe.train.evaluate_every) == (256, 5544, 462)
    assert recipe.optimizer.learning_rate == pytest.approx(0.32)
    rescale(recipe, 16)
    assert (recipe.train.steps, recipe.train.evaluate_every) == (88704, 7392)
    assert recipe.optimizer.learning_rate == pytest.approx(0.02)


def test_adamw_goes_with_the_root():
    recipe = load_recipe("bccd", "alone")
    recipe.optimizer.kind, recipe.optimizer.learning_rate = "adamw", 1e-3
    rescale(recipe, 4 * recipe.train.batch)
    assert recipe.optimizer.learning_rate == pytest.approx(2e-3)
    assert recipe.train.evaluate_every == 0


@pytest.mark.parametrize(
    ("batch", "said"), [(0, "at least one picture, not 0"), (10**9, "less than one of 1400 steps")]
)
def test_batches_that_cannot_be(batch, said):
    with pytest.raises(ConfigError, match=said):
        rescale(load_recipe("bccd", "alone"), batch)
