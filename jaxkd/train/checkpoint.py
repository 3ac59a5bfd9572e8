"""Checkpoints of a run: written in a thread, sealed by a manifest, and checked before they are used."""

import contextlib
import errno
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxkd.errors import StorageError, first_line
from jaxkd.train import hosts, manifest
from jaxkd.train.state import State

FORMAT = 2
FAULTS = (ValueError, KeyError, TypeError, AttributeError, OSError)  # raised for a checkpoint of another run
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PAUSES = (1.0, 2.0, 4.0)  # seconds between tries
UNFINISHED, BROKEN = ".unfinished", "broken-"  # parts of the names of folders that are no checkpoints


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint stores beside its arrays, by the names in its manifest."""

    step: int
    best_ap: float  # of the run so far
    data: dict[str, Any]  # state of the iterator over the training batches
    facts: dict[str, str]  # what has to be the same when the run goes on
    ap: float | None = None  # of this state, if it was evaluated
    balance: dict[str, float] = field(default_factory=dict)  # factors on kinds of terms; see `train.balance`


class Checkpoints:
    """The checkpoints of one workdir: the last few, and the one of the best AP.

    Process 0 alone reads and writes, since the state is replicated on all devices. Messages go to `say`. Raises
    StorageError where the folder cannot be made.
    """

    def __init__(self, folder: Path, *, keep: int, say: Callable[[str], None] = print):
        self._folder, self._keep, self._say = folder.absolute(), max(keep, 1), say
        self._worker = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._orbax = _orbax()
        self._sealed: dict[int, Metadata] = {}  # by step, of the checkpoints that are known to be complete
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The checkpoint folder {folder} cannot be used: {error.strerror}.") from error

    def latest(self) -> Metadata | None:
        """The newest complete checkpoint, None where there is none; a broken one is reported and renamed.

        Raises StorageError where there are checkpoints and all of them are broken; then nothing is touched.
        """
        newest, faults = None, {}
        for step in self._existing_steps():
            try:
                metadata = _metadata(manifest.check(self._folder / str(step)))
            except manifest.Broken as fault:
                faults[step] = str(fault)
            else:
                self._sealed[step] = metadata
                newest = newest or metadata
        if faults and newest is None:
            details = "; ".join(f"{step}: {fault}" for step, fault in sorted(faults.items()))
            raise StorageError(
                f"None of the checkpoints in {self._folder} is whole ({details}); bring back a copy or take a new "
                "--workdir."
            )
        for step, fault in sorted(faults.items()):
            self._say(f"Checkpoint {step} is not whole: {fault}; it is now {self._put_aside(step)}.")
        return newest

    def latest_on_all_hosts(self) -> Metadata | None:
        """The result of process 0's `latest`, for every process."""
        latest = self.latest() if hosts.is_first() else None
        step = hosts.from_first(-1 if latest is None else latest.step)
        if step < 0 or latest is not None:
            return latest
        return _metadata(manifest.read(self._folder / str(step)))

    def save(self, state: State, metadata: Metadata, *, wait: bool = False) -> None:
        """Starts to write a checkpoint, once the one before is written; training may go on at once.

        A checkpoint that cannot be written, because the disk is full or for another reason, is reported and left out.
        With `wait` it is written when this returns. Raises StorageError where it is not, and where the folder stays
        out of reach.
        """
        self.wait_until_finished()
        if metadata.step in self._sealed:
            return
        arrays = jax.tree.map(lambda leaf: np.array(leaf), _plain(state))  # copies: the next step donates the state
        self._pending = self._worker.submit(self._write, arrays, metadata)
        if wait:
            for pause in (*PAUSES, None):
                if self.wait_until_finished():
                    return
                if pause is None:
                    raise StorageError(f"Step {metadata.step} could not be saved in {self._folder}.")
                time.sleep(pause)
                self._pending = self._worker.submit(self._write, arrays, metadata)

    def close(self) -> None:
        """Waits for the checkpoint that is being written, and ends the thread."""
        try:
            self.wait_until_finished()
        finally:
            self._worker.shutdown()
            self._orbax.close()

    def wait_until_finished(self) -> bool:
        """Waits for a pending checkpoint; False where it failed. Raises StorageError for a folder out of reach."""
        pending, self._pending = self._pending, None
        error = pending.exception() if pending else None
        if error is None:
            return True
        self._say(f"A checkpoint could not be written: {first_line(error)}; the older ones are kept.")
        self._probe()
        return False

    def _probe(self) -> None:
        """Returns once the folder takes a file, or is full; raises StorageError after the last of PAUSES."""
        for pause in (*PAUSES, None):
            try:
                file = self._folder / ".probe"
                file.write_text("jaxkd")
                file.unlink()
                return
            except OSError as error:
                if error.errno in FULL:
                    return
                if pause is None:
                    raise StorageError(f"{self._folder} cannot be written: {error.strerror}.") from error
                time.sleep(pause)

    def _write(self, arrays: State, metadata: Metadata) -> None:
        """Writes, seals and names a checkpoint; then removes those that are not to be kept."""
        unfinished, final = self._folder / f"{metadata.step}{UNFINISHED}", self._folder / str(metadata.step)
        shutil.rmtree(unfinished, ignore_errors=True)
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "The folder is gone", str(self._folder))
        try:
            self._orbax.save(unfinished, args=ocp.args.PyTreeSave(arrays))
            manifest.seal(unfinished, {"format": FORMAT, **metadata.__dict__})
            unfinished.rename(final)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        self._sealed[metadata.step] = metadata
        for step in self._unwanted():
            del self._sealed[step]
            shutil.rmtree(self._folder / str(step), ignore_errors=True)

    def _unwanted(self) -> list[int]:
        """The steps that are neither among the last nor the best."""
        steps = sorted(self._sealed)
        scored = [(metadata.ap, step) for step, metadata in self._sealed.items() if metadata.ap is not None]
        kept = {*steps[-self._keep :], *(step for _, step in sorted(scored)[-1:])}
        return [step for step in steps if step not in kept]

    def _existing_steps(self) -> list[int]:
        """The steps that have a folder that is not empty, newest first; unfinished checkpoints are removed."""
        steps = []
        for path in sorted(self._folder.iterdir()):
            if UNFINISHED in path.name and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.isdecimal() and path.is_dir() and any(path.iterdir()):
                steps.append(int(path.name))
            elif not path.name.startswith(BROKEN):
                self._say(f"{path} is no checkpoint, and is left alone.")
        return sorted(steps, reverse=True)

    def _put_aside(self, step: int) -> str:
        """Renames the folder of a broken checkpoint; returns its new name."""
        number, name = 1, f"{BROKEN}{step}"
        while (self._folder / name).exists():
            number, name = number + 1, f"{BROKEN}{step}.{number + 1}"
        (self._folder / str(step)).rename(self._folder / name)
        return name


def newest(folder: Path) -> Metadata | None:
    """The newest complete checkpoint in a folder, None where there is none; changes nothing."""
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    for step in sorted(steps, reverse=True):
        with contextlib.suppress(manifest.Broken):
            return _metadata(manifest.check(folder / str(step)))
    return None


def restore(folder: Path, metadata: Metadata, like: State) -> State:
    """The arrays of a checkpoint in numpy, as a state of the structure and the shapes of `like`.

    Raises StorageError where structure or shapes differ.
    """
    path, plain = folder.absolute() / str(metadata.step), _plain(like)
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), plain)
    try:
        with _orbax() as checkpointer:
            restored = checkpointer.restore(path, args=ocp.args.PyTreeRestore(item=plain, restore_args=arguments))
        for expected, leaf in zip(jax.tree.leaves(plain), jax.tree.leaves(restored), strict=True):
            if (expected.shape, expected.dtype) != (leaf.shape, leaf.dtype):
                raise ValueError(f"{leaf.dtype}{list(leaf.shape)} in place of {expected.dtype}{list(expected.shape)}")
    except FAULTS as error:
        raise StorageError(f"Checkpoint {path} cannot be restored: {first_line(error)}.") from error
    return restored.replace(key=jax.random.wrap_key_data(jax.numpy.asarray(restored.key)))


def _orbax() -> ocp.Checkpointer:
    """A checkpointer for this process alone, which does not wait for others."""
    options = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(multiprocessing_options=options), multiprocessing_options=options
    )


def _metadata(body: dict[str, Any]) -> Metadata:
    """The metadata in a manifest; raises StorageError where another jaxkd wrote it in another form."""
    form = body.pop("format", None)
    if form != FORMAT:
        raise StorageError(
            f"A checkpoint has the form {form}, and this jaxkd reads the form {FORMAT}; go on with the jaxkd that "
            "wrote it, or take a new --workdir."
        )
    return Metadata(**body)


def _plain(state: State) -> State:
    """The state with its random key as an array of numbers, which can be stored."""
    return state.replace(key=jax.random.key_data(state.key))
