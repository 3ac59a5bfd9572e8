"""Reports once how fast the steps of a run are, a part of it done."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from jaxkd.train.sinks.base import Row


class Pace:
    """Says the sentence that `describe` gives for the seconds a step, at the first report from step `at` on.

    The first report is left out where there is another, since its steps wait for the first pictures.
    """

    name = "pace"

    def __init__(self, at: int, describe: Callable[[float], str], *, say: Callable[[str], None] = print):
        self._at, self._describe, self._say = at, describe, say
        self._laps: list[tuple[int, float]] = []  # steps and seconds a step of each report

    def begin(self, start: int, earlier: Sequence[Row]) -> str:
        """Nothing is opened."""
        self._done, self._laps = start, []
        return ""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Remembers the time of a report's steps, and says the sentence once."""
        if "time/step_seconds" not in values or self._done >= self._at:
            return
        self._laps.append((step - self._done, values["time/step_seconds"]))
        self._done = step
        if step >= self._at:
            laps = self._laps[1:] or self._laps
            seconds = sum(steps * each for steps, each in laps) / sum(steps for steps, _ in laps)
            if sentence := self._describe(seconds):
                self._say(sentence)

    def text(self, name: str, text: str) -> None:
        """Texts are not shown."""

    def pictures(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        """Pictures are not shown."""

    def close(self) -> None:
        """Nothing is left to send."""
