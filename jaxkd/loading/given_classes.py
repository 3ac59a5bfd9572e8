"""Names of classes that a user gives for a published detector."""

from collections.abc import Sequence

from jaxkd.errors import ConfigError, WeightsError


def checked(given: Sequence[str], *, columns: int) -> tuple[str, ...]:
    """The names, one for each column of a file's class outputs.

    Raises WeightsError where they are more or fewer, ConfigError where one is empty or repeated.
    """
    if len(given) != columns:
        raise WeightsError(f"The file has {columns} classes, and {len(given)} names are given for them.")
    if len(set(given)) < len(given) or "" in given:
        raise ConfigError(f"The names of classes are given as {','.join(given)}; each has to be there, and once.")
    return tuple(given)
