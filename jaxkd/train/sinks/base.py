"""What every sink is: a place that is shown a run beside the record in its workdir."""

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from jaxkd.errors import ConfigError
from jaxkd.version import install_line

Row = tuple[int, Mapping[str, float]]  # a step, and numbers by grouped names: "train/loss", "val/AP"


@runtime_checkable
class Sink(Protocol):
    """Shows a run to people; its methods may raise whatever they like, see `apart`.

    Its constructor imports its package and opens nothing; it raises ConfigError where the package is missing.
    """

    name: str  # what people call it

    def begin(self, start: int, earlier: Sequence[Row]) -> str:
        """Opens it for a run that goes on after step `start`, and says where to look, in one sentence, or "".

        `earlier` is what the record holds up to there, for a sink that does not have it yet.
        """
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step."""
        ...

    def text(self, name: str, text: str) -> None:
        """A text about the whole run, such as its recipe in JSON."""
        ...

    def pictures(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        """RGB pictures by their names."""
        ...

    def close(self) -> None:
        """Brings away what is left; also called after a failure, and once more where it fails itself."""
        ...


def package(name: str, *, extra: str) -> ModuleType:
    """The package that a sink needs; ConfigError with the line that installs it where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"--{extra} needs the package {name} ({error}); {install_line(extra)}.") from error
