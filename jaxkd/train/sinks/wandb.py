"""Weights & Biases, where the network reaches it; kept in the workdir, to be sent later, where it does not."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxkd.errors import first_line
from jaxkd.train.sinks.base import Row, package

FOLDER, ID = "wandb", "run_id"  # in the workdir: what the package writes there, and our run's name among all runs
JOINING = 30.0  # seconds to reach the server
ENDING = 30.0  # seconds for the last numbers to be sent
# Where a user did not set these: we say what there is to say, and reports of the package about itself would be one more
# thing to wait for when a process ends without a network.
ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


class WeightsAndBiases:
    """One run of `project` ("PROJECT" or "ENTITY/PROJECT") for a workdir, however often it goes on."""

    name = "Weights & Biases"

    def __init__(self, project: str, workdir: Path):
        self._entity, _, self._project = project.rpartition("/")
        self._workdir = workdir
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._package = package("wandb", extra="wandb")
        self._run: Any = None
        self._first = 0  # step that the server does not have yet

    def begin(self, start: int, earlier: Sequence[Row]) -> str:
        """Joins the run, or keeps it in the workdir; then sends what the server lacks of the earlier numbers.

        A run that goes on may have sent steps after `start`; they are the same again, and are not sent twice.
        """
        reason = self._unreachable()
        if not reason:
            try:
                self._run = self._opened(os.environ.get("WANDB_MODE"))
            except Exception as error:  # the package raises its own kinds, and what its net raises
                reason = first_line(error)
                self._package.teardown()  # it would refuse the run's id a second time
        if reason:
            self._run = self._opened("offline")
        self._first = int(self._run.step)
        for step, values in earlier:
            self.scalars(step, values)
        if self._run.disabled:
            return ""
        if not self._run.offline:
            return f"Weights & Biases shows the run: {self._run.url}"
        why = f"Weights & Biases is not reached ({reason})" if reason else "Weights & Biases is set to be offline"
        return f"{why}; the run is kept in {self._workdir / FOLDER}, and wandb sync sends it."

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A point on each curve."""
        if step >= self._first:
            self._run.log(dict(values), step=step)

    def text(self, name: str, text: str) -> None:
        """Part of the run's configuration: by its fields, where it is JSON."""
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        self._run.config.update({name: value}, allow_val_change=True)

    def pictures(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        """Each picture under its name, with a slider over steps."""
        if step >= self._first:
            self._run.log({name: self._package.Image(image) for name, image in images.items()}, step=step)

    def close(self) -> None:
        """Waits a while until all is sent; TimeoutError where it is not."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except TimeoutError as error:
            raise TimeoutError(
                f"the last numbers could not be sent in {ENDING:g} s, and wandb sync sends them from "
                f"{self._workdir / FOLDER}"
            ) from error

    def _unreachable(self) -> str:
        """Why not even to try, "" for no reason; asks nobody for a key."""
        if os.environ.get("WANDB_MODE", "online") != "online" or self._package.login(prompt=False, verify=False):
            return ""
        return "there is no key: wandb login"

    def _opened(self, mode: str | None) -> Any:
        settings = self._package.Settings(
            silent=True,
            console="off",
            init_timeout=JOINING,
            finish_timeout=ENDING,
            finish_timeout_raises=True,
        )
        return self._package.init(
            project=self._project,
            entity=self._entity or None,
            name=self._workdir.name,
            dir=str(self._workdir),
            id=self._id(),
            resume="allow",
            mode=mode,
            settings=settings,
        )

    def _id(self) -> str:
        """The id that is kept in the workdir."""
        file = self._workdir / FOLDER / ID
        if file.is_file() and (known := file.read_text(encoding="utf-8").strip()):
            return known
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(8))
        return file.read_text(encoding="utf-8")
