"""TensorBoard's event files, written by tensorboardX."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxkd.train.sinks.base import Row, package

FILES = "events.out.tfevents.*"


class TensorBoard:
    """Event files in `folder`.

    A run that goes on adds a file, whose first event purges the later steps of the earlier files.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path):
        self._folder = folder
        self._package = package("tensorboardX", extra="tensorboard")
        self._start = 0
        self._writer: Any = None

    def begin(self, start: int, earlier: Sequence[Row]) -> str:
        """Opens a file; in an empty folder it begins with the numbers from before `start`."""
        has_files = any(self._folder.glob(FILES))
        self._start = start
        self._writer = self._package.SummaryWriter(
            str(self._folder),
            purge_step=(start and start + 1) if has_files else None,
            filename_suffix=f".{os.getpid()}.{start:09d}",  # readers sort by name, which begins with seconds
        )
        for step, values in () if has_files else earlier:
            self._points(step, values)
        self._writer.flush()
        return f"TensorBoard shows the run: tensorboard --logdir={self._folder}"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A point on each curve."""
        self._points(step, values)
        self._writer.flush()

    def text(self, name: str, text: str) -> None:
        """The text verbatim, at the step that the run goes on from."""
        self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), self._start)
        self._writer.flush()

    def pictures(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        """Each picture under its name, with a slider over steps."""
        for name, image in images.items():
            self._writer.add_image(name, image, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()

    def _points(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
