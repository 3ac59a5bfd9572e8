"""The log of a run: JSON lines in a file, lines for people on the terminal, and sinks."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jaxkd import json_values, phrases, storage
from jaxkd.errors import StorageError
from jaxkd.train.sinks.base import Sink
from jaxkd.train.sinks.threaded import ThreadedSink

TIME_NUMBERS = ("step_seconds", "data_wait_share", "refresh_seconds")  # of a line; they form the group "time"


class Log:
    """Writes `metrics.jsonl` in the workdir, hands each line to the sinks, and shows progress on the terminal.

    A line that cannot be written is kept until the next one, and training goes on. Where `silent`, as on all processes
    but the first, nothing is written, printed or handed on.
    """

    def __init__(
        self, workdir: Path, *, steps: int, quiet: bool = False, silent: bool = False, sinks: Sequence[Sink] = ()
    ):
        self._file = None if silent else workdir / "metrics.jsonl"
        self._lines: list[str] = []  # not written yet
        self._steps = steps
        quiet = quiet or silent
        console = Console(file=sys.stdout)
        self._bar = None
        self._quiet = quiet
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task("training", total=steps, note="")
            self._bar.start()
        self._sinks = [] if silent else [ThreadedSink(sink, say=self.say) for sink in sinks]

    def begin(self, start: int, *, scored: bool = True) -> None:
        """Goes on after step `start`: later lines of an earlier process are dropped, so each step is reported once.

        Where the scores at `start` are about to be computed again (not `scored`), their line is dropped too.
        """
        try:
            self._drop_lines_after(start, scored)
        except StorageError as error:
            self.say(f"{error} It keeps the lines of the run before.")
        if self._bar is not None:
            self._bar.update(self._task, completed=start)
        earlier = [(line["step"], scalars(line)) for line in self._earlier_lines()] if self._sinks else []
        for threaded in self._sinks:
            threaded.submit(partial(threaded.sink.begin, start, earlier))

    def lasts(self, steps: int) -> None:
        """The run has so many steps, of which its epochs said nothing before the data were loaded."""
        self._steps = steps
        if self._bar is not None:
            self._bar.update(self._task, total=steps)

    def report(
        self,
        step: int,
        values: dict[str, float],
        *,
        wait_share: float,
        step_seconds: float,
        left: float | None = None,
    ) -> None:
        """One line for the interval that ends at `step`; `left` are the estimated seconds until the end of the run."""
        line = {"step": step, "step_seconds": step_seconds, "data_wait_share": wait_share, **values}
        self._append(line)
        note = f"loss {values['loss']:.3f}  {step_seconds * 1e3:.0f} ms/step  waiting for data {wait_share:.0%}"
        note += "" if left is None else f"  about {phrases.duration(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note)
        elif not self._quiet:
            print(f"step {step}/{self._steps}  {note}", flush=True)

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """The scores of an evaluation after `step` steps."""
        self._append({"step": step, "scores": scores})
        present = [name for name in ("AP", "AP50", "AP75", "VOC AP") if math.isfinite(scores.get(name, math.nan))]
        numbers = "  ".join(f"{name} {100 * scores[name]:.1f}" for name in present)
        self.say(f"step {step}: {numbers or 'there is no object to score on'}")

    def refreshed(self, step: int, methods: list[str], *, seconds: float) -> None:
        """The methods whose memory was rebuilt after `step`, and how long that took."""
        self._append({"step": step, "refreshed": methods, "refresh_seconds": seconds})

    def text(self, name: str, text: str) -> None:
        """A text about the whole run, for the sinks."""
        for threaded in self._sinks:
            threaded.submit(partial(threaded.sink.text, name, text))

    def pictures(self, step: int, draw: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """RGB pictures [h w 3] uint8 by name, for the sinks; `draw` is called once a sink."""
        for threaded in self._sinks:
            threaded.submit(lambda sink=threaded.sink: sink.pictures(step, draw()))

    def say(self, text: str) -> None:
        """One line for people."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, emoji=False)
        elif not self._quiet:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the sinks, and removes the progress line."""
        self._write()
        for threaded in self._sinks:
            threaded.close()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _append(self, line: dict) -> None:
        if self._file is None:
            return
        line = json_values.plain(line)
        for threaded in self._sinks:
            threaded.submit(partial(threaded.sink.scalars, line["step"], scalars(line)))
        self._lines.append(json.dumps(line) + "\n")
        self._write()

    def _write(self) -> None:
        """Tries to write the lines that are not written yet."""
        if self._file is None or not self._lines:
            return
        try:
            before = self._file.stat().st_size if self._file.exists() else 0
            try:
                with self._file.open("a") as file:
                    file.write("".join(self._lines))
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self._file, before)  # no partial line
                raise
        except OSError as error:
            if len(self._lines) == 1:
                self.say(f"{self._file} cannot be written ({error.strerror}); its lines wait for the next try.")
        else:
            self._lines = []

    def _earlier_lines(self) -> list[dict]:
        return [] if self._file is None else read(self._file.parent)

    def _drop_lines_after(self, start: int, scored: bool) -> None:
        if self._file is None or not self._file.exists():
            return
        kept = [
            json.dumps(line) + "\n"
            for line in read(self._file.parent)
            if line["step"] < start
            or (line["step"] == start and "refreshed" not in line and (scored or "scores" not in line))
        ]
        storage.write(self._file, "".join(kept))


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line, named as sinks show them: in the groups train, val and time."""
    scores = {f"val/{name}": value for name, value in line.get("scores", {}).items()}
    others = {
        f"{'time' if name in TIME_NUMBERS else 'train'}/{name}": value
        for name, value in line.items()
        if name not in ("step", "scores", "refreshed")
    }
    return {name: value for name, value in (scores | others).items() if value is not None}


def read(workdir: Path) -> list[dict]:
    """All lines of a run, without any that is cut off."""
    file, lines = workdir / "metrics.jsonl", []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines
