"""The protocol of sinks, which show a run beside the log in its workdir."""

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
    """Shows a run to people; its methods may raise any exception, see `threaded`.

    The constructor imports the sink's package and opens nothing; it raises ConfigError where the package is missing.
    """

    name: str  # for messages

    def begin(self, start: int, earlier: Sequence[Row]) -> str:
        """Opens the sink for a run that goes on after step `start`; returns a sentence on where it is shown, or "".

        `earlier` are the logged numbers up to that step, for a sink that does not have them yet.
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
        """Sends what is left; also called after a failure, and once more where it fails itself."""
        ...


def package(name: str, *, extra: str) -> ModuleType:
    """The package that a sink needs; ConfigError with the command that installs it where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"--{extra} needs the package {name} ({error}); {install_line(extra)}.") from error
