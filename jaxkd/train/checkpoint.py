"""Checkpoints of a whole run: written beside the training, sealed by a manifest, checked before they are used."""

import contextlib
import errno
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxkd.errors import StorageError
from jaxkd.train import hosts, manifest
from jaxkd.train.state import State

FORMAT = 2
FAULTS = (ValueError, KeyError, TypeError, AttributeError, OSError)  # of a checkpoint that is of another run
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PAUSES = (1.0, 2.0, 4.0)  # seconds between tries
UNFINISHED, BROKEN = ".unfinished", "broken-"  # names of folders that are no checkpoints


@dataclass(frozen=True)
class About:
    """What a checkpoint says beside its arrays."""

    step: int
    best_ap: float  # until then
    data: dict[str, Any]  # where the iterator over the training pictures stands
    facts: dict[str, str]  # what has to be the same when the run goes on
    ap: float | None = None  # of this very state, if it was evaluated


class Checkpoints:
    """The checkpoints of one workdir: the last few, and the one of the best AP.

    One process reads and writes; the state is whole on every device, so the others need none. What it has to say to
    people goes to `say`. Raises StorageError where the folder cannot be made.
    """

    def __init__(self, folder: Path, *, keep: int, say: Callable[[str], None] = print):
        self._folder, self._keep, self._say = folder.absolute(), max(keep, 1), say
        self._worker = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None
        self._orbax = _orbax()
        self._abouts: dict[int, About] = {}  # of the sealed steps that are known to be whole
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The checkpoint folder {folder} cannot be used: {error.strerror}.") from error

    def open(self) -> About | None:
        """The newest checkpoint that is whole, None where there is none; what cannot be used is said and put aside.

        Raises StorageError where there are checkpoints and none of them is whole; then nothing is touched.
        """
        whole, faults = None, {}
        for step in self._survey():
            try:
                about = _about(manifest.check(self._folder / str(step)))
            except manifest.Broken as fault:
                faults[step] = str(fault)
            else:
                self._abouts[step] = about
                whole = whole or about
        if faults and whole is None:
            told = "; ".join(f"{step}: {fault}" for step, fault in sorted(faults.items()))
            raise StorageError(
                f"None of the checkpoints in {self._folder} is whole ({told}); bring back a copy or take a new "
                "--workdir."
            )
        for step, fault in sorted(faults.items()):
            self._say(f"Checkpoint {step} is not whole: {fault}; it is now {self._put_aside(step)}.")
        return whole

    def shared(self) -> About | None:
        """What `open` finds, for every process: the first one looks, the others follow."""
        found = self.open() if hosts.is_first() else None
        step = hosts.from_first(-1 if found is None else found.step)
        if step < 0 or found is not None:
            return found
        return _about(manifest.about(self._folder / str(step)))

    def save(self, state: State, about: About, *, must: bool = False) -> None:
        """Starts to write a checkpoint, once the one before is written; training may go on at once.

        A full disk is said, and the next save is the next try; so it is for other faults, unless the folder stays out
        of reach. With `must` the checkpoint is written when this returns. Raises StorageError where it is not, and
        where the folder is out of reach.
        """
        self.settle()
        if about.step in self._abouts:
            return
        arrays = jax.tree.map(lambda leaf: np.array(leaf), _plain(state))  # copies: the state is about to be given away
        self._saving = self._worker.submit(self._write, arrays, about)
        if must:
            for pause in (*PAUSES, None):
                if self.settle():
                    return
                if pause is None:
                    raise StorageError(f"Step {about.step} could not be saved in {self._folder}.")
                time.sleep(pause)
                self._saving = self._worker.submit(self._write, arrays, about)

    def close(self) -> None:
        """Waits for what is being written, and ends the thread that writes."""
        try:
            self.settle()
        finally:
            self._worker.shutdown()
            self._orbax.close()

    def settle(self) -> bool:
        """Waits for what is being written, and tells whether it is; raises StorageError for a folder out of reach."""
        saving, self._saving = self._saving, None
        error = saving.exception() if saving else None
        if error is None:
            return True
        self._say(f"A checkpoint could not be written: {_first_line(error)}; the older ones are kept.")
        self._probe()
        return False

    def _probe(self) -> None:
        """Returns once the folder takes a file, or says that it is full; raises StorageError if it never does."""
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

    def _write(self, arrays: State, about: About) -> None:
        """Writes, seals and names a checkpoint; then removes those that are no longer wanted."""
        spare, final = self._folder / f"{about.step}{UNFINISHED}", self._folder / str(about.step)
        shutil.rmtree(spare, ignore_errors=True)
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "The folder is gone", str(self._folder))
        try:
            self._orbax.save(spare, args=ocp.args.PyTreeSave(arrays))
            manifest.seal(spare, {"format": FORMAT, **about.__dict__})
            spare.rename(final)
        except BaseException:
            shutil.rmtree(spare, ignore_errors=True)
            raise
        self._abouts[about.step] = about
        for step in self._unwanted():
            del self._abouts[step]
            shutil.rmtree(self._folder / str(step), ignore_errors=True)

    def _unwanted(self) -> list[int]:
        """The steps that are neither among the last nor the best."""
        steps = sorted(self._abouts)
        scored = [(about.ap, step) for step, about in self._abouts.items() if about.ap is not None]
        wanted = {*steps[-self._keep :], *(step for _, step in sorted(scored)[-1:])}
        return [step for step in steps if step not in wanted]

    def _survey(self) -> list[int]:
        """The steps that have a folder with something in it, newest first; what is half written is removed."""
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
        """The new name of a folder that is no longer to be taken for a checkpoint."""
        number, name = 1, f"{BROKEN}{step}"
        while (self._folder / name).exists():
            number, name = number + 1, f"{BROKEN}{step}.{number + 1}"
        (self._folder / str(step)).rename(self._folder / name)
        return name


def newest(folder: Path) -> About | None:
    """The newest checkpoint in a folder that is whole, None where there is none; touches nothing."""
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    for step in sorted(steps, reverse=True):
        with contextlib.suppress(manifest.Broken):
            return _about(manifest.check(folder / str(step)))
    return None


def restore(folder: Path, about: About, like: State) -> State:
    """The arrays of a checkpoint in numpy, as a state of the structure and the shapes of `like`.

    Raises StorageError where they are others.
    """
    place, plain = folder.absolute() / str(about.step), _plain(like)
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), plain)
    try:
        with _orbax() as reader:
            found = reader.restore(place, args=ocp.args.PyTreeRestore(item=plain, restore_args=arguments))
        for wanted, leaf in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
            if (wanted.shape, wanted.dtype) != (leaf.shape, leaf.dtype):
                raise ValueError(f"{leaf.dtype}{list(leaf.shape)} in place of {wanted.dtype}{list(wanted.shape)}")
    except FAULTS as error:
        raise StorageError(f"Checkpoint {place} cannot be restored: {_first_line(error)}.") from error
    return found.replace(key=jax.random.wrap_key_data(jax.numpy.asarray(found.key)))


def _orbax() -> ocp.Checkpointer:
    """Orbax for this process alone, which asks no other one."""
    mine = ocp.options.MultiprocessingOptions(primary_host=jax.process_index(), active_processes={jax.process_index()})
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=mine), multiprocessing_options=mine)


def _about(body: dict[str, Any]) -> About:
    """What a manifest says about a checkpoint; raises StorageError where another jaxkd wrote it in another form."""
    form = body.pop("format", None)
    if form != FORMAT:
        raise StorageError(
            f"A checkpoint has the form {form}, and this jaxkd reads the form {FORMAT}; go on with the jaxkd that "
            "wrote it, or take a new --workdir."
        )
    return About(**body)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300].rstrip(".: ")


def _plain(state: State) -> State:
    """The state with its key as numbers, which is what can be stored."""
    return state.replace(key=jax.random.key_data(state.key))
