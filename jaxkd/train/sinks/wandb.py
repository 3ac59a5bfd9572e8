"""Weights & Biases; without a network the run is stored in the workdir, to be sent later."""

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

FOLDER, ID = "wandb", "run_id"  # in the workdir: the package's folder, and in it the file with the id of the run
JOINING = 30.0  # seconds to reach the server
ENDING = 30.0  # seconds for the last numbers to be sent
# Unless the user set them: the sink prints its own messages, and error reports of the package about itself would delay
# the end of a process without a network.
ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


class WeightsAndBiases:
    """One run of `project` ("PROJECT" or "ENTITY/PROJECT") for a workdir, also where the training is resumed."""

    name = "Weights & Biases"

    def __init__(self, project: str, workdir: Path):
        self._entity, _, self._project = project.rpartition("/")
        self._workdir = workdir
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._package = package("wandb", extra="wandb")
        self._run: Any = None
        self._first = 0  # first step that the server does not have yet

    def begin(self, start: int, earlier: Sequence[Row]) -> str:
        """Resumes the run on the server, or stores it in the workdir; then sends earlier numbers that the server lacks.

        A resumed run may have sent steps after `start`; they are repeated with equal numbers, and not sent twice.
        """
        reason = self._unreachable()
        if not reason:
            try:
                self._run = self._open_run(os.environ.get("WANDB_MODE"))
            except Exception as error:  # of the package's own types, or of the network
                reason = first_line(error)
                self._package.teardown()  # otherwise it refuses the run's id a second time
        if reason:
            self._run = self._open_run("offline")
        self._first = int(self._run.step)
        for step, values in earlier:
            self.scalars(step, values)
        if self._run.disabled:
            return ""
        if not self._run.offline:
            return f"Weights & Biases shows the run: {self._run.url}"
        status = f"Weights & Biases is not reached ({reason})" if reason else "Weights & Biases is set to be offline"
        return f"{status}; the run is kept in {self._workdir / FOLDER}, and wandb sync sends it."

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A point on each curve."""
        if step >= self._first:
            self._run.log(dict(values), step=step)

    def text(self, name: str, text: str) -> None:
        """Adds the text to the run's configuration, parsed where it is JSON."""
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
        """Waits up to ENDING seconds until all is sent; TimeoutError where it is not."""
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
        """Why the server is not tried, "" where it is; never prompts for a key."""
        if os.environ.get("WANDB_MODE", "online") != "online" or self._package.login(prompt=False, verify=False):
            return ""
        return "there is no key: wandb login"

    def _open_run(self, mode: str | None) -> Any:
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
        """The id of the run, stored in the workdir."""
        file = self._workdir / FOLDER / ID
        if file.is_file() and (stored := file.read_text(encoding="utf-8").strip()):
            return stored
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(8))
        return file.read_text(encoding="utf-8")
