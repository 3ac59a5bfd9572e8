"""The length of a run: steps as the recipe says them, or those of its epochs once the pictures are counted."""

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.derive import schedule
from jaxkd.errors import ConfigError


def check(recipe: configs.Recipe) -> None:
    """Raises ConfigError where neither steps nor epochs are above 0."""
    if not recipe.train.steps and not recipe.train.epochs:
        raise ConfigError(
            "train.loop.steps must be at least 1, not 0, unless train.epochs says the length of the run in epochs."
        )


def resolved(recipe: configs.Recipe, *, pictures: int) -> tuple[configs.Recipe, str]:
    """A recipe with the steps that its epochs over so many training pictures take, and a sentence; "" without epochs.

    Its epochs stay, so that resolving once more changes nothing. Raises ConfigError where it has other steps too.
    """
    train = recipe.train
    if not train.epochs:
        return recipe, ""
    steps = schedule.length(train, pictures)
    unsaid = configs.component(train.name).steps  # what a recipe has that says nothing about steps
    if train.steps not in (0, unsaid, steps):
        raise ConfigError(
            f"The recipe has train.epochs={train.epochs}, which are {steps} steps, and train.steps={train.steps}; "
            "leave one of them 0."
        )
    out = recipe.copy_and_resolve_references()
    out.train.steps = steps
    length = f"{phrases.counted(train.epochs, 'epoch')} of {phrases.counted(pictures, 'picture')}"
    return out.lock(), f"{length} are {phrases.counted(steps, 'step')} of {train.batch}."
