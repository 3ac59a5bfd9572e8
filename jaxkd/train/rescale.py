"""A recipe scaled to another batch size: the same epochs, and a learning rate to match."""

from jaxkd import config as configs
from jaxkd.errors import ConfigError

POWERS = {"sgd": 1.0, "adamw": 0.5}  # of the batch size, to which the learning rate is proportional


def rescale(recipe: configs.Recipe, batch: int) -> None:
    """Sets `batch` pictures a step in the recipe, and adapts learning rate, steps and evaluations.

    The learning rate of SGD grows in proportion to the batch (Goyal et al. 2017), that of AdamW with its root; steps,
    and those between two evaluations, shrink so that both stay as many epochs. The warm-up stays as many steps. Steps
    that follow of `train.epochs` are left for the data to say.

    Raises ConfigError for a batch below 1, and one so large that less than a step is left.
    """
    train, optimizer = recipe.train, recipe.optimizer
    if batch < 1:
        raise ConfigError(f"A step takes at least one picture, not {batch}.")
    factor = batch / train.batch
    if not train.epochs and train.steps < factor:
        raise ConfigError(f"With {batch} pictures a step less than one of {train.steps} steps would be left.")
    optimizer.learning_rate *= factor ** POWERS[optimizer.kind]
    train.steps = 0 if train.epochs else round(train.steps / factor)
    train.evaluate_every = max(round(train.evaluate_every / factor), 1) if train.evaluate_every else 0
    train.batch = batch
