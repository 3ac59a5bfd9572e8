"""Checkpoints of a whole run through Orbax: state, data iterator and best score in one step folder."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from grain import python as grain
from orbax.checkpoint import checkpoint_managers as policies

from jaxkd.errors import StorageError
from jaxkd.train.state import State

FORMAT = 1
FAULTS = (ValueError, KeyError, TypeError, AttributeError, OSError)  # of a checkpoint that is broken or of another run


class Checkpoints:
    """The checkpoints of one workdir: the last few, and the one of the best AP.

    Raises StorageError where the folder cannot be made.
    """

    def __init__(self, folder: Path, *, keep: int):
        best = policies.BestN(get_metric_fn=lambda scores: scores["AP"], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )
        try:
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        except FAULTS as error:
            raise StorageError(f"The checkpoint folder {folder} cannot be used: {_first_line(error)}.") from error

    @property
    def latest(self) -> int | None:
        """The last finished step; None where there is none."""
        return self._manager.latest_step()

    def save(self, state: State, iterator: Any, *, best_ap: float, scores: dict[str, float] | None = None) -> None:
        """Starts to save; training may go on at once. `scores` belong to this very state, if it was evaluated."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            metrics=scores,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_plain(state)),
                data=grain.PyGrainCheckpointSave(iterator),
                meta=ocp.args.JsonSave({"format": FORMAT, "best_ap": best_ap}),
            ),
        )

    def restore(self, step: int, like: State, iterator: Any = None) -> tuple[State, float]:
        """The state of `step`, laid out as `like`, and the best AP until then; an `iterator` is set to its place.

        Raises StorageError where the checkpoint does not fit the run, or another jaxkd wrote it in another form.
        """
        meta = self._restored(step, ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        form = meta.get("format") if isinstance(meta, dict) else None
        if form != FORMAT:
            raise StorageError(
                f"Checkpoint {step} in {self._manager.directory} has the form {form}, and this jaxkd "
                f"reads the form {FORMAT}; go on with the jaxkd that wrote it, or take a new --workdir."
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
        place = {} if iterator is None else {"data": grain.PyGrainCheckpointRestore(iterator)}
        state = self._restored(step, ocp.args.Composite(state=ocp.args.StandardRestore(abstract), **place))["state"]
        key = jax.random.wrap_key_data(state.key)
        return state.replace(key=jax.device_put(key, like.key.sharding)), float(meta["best_ap"])

    def _restored(self, step: int, parts: ocp.args.Composite) -> Any:
        try:
            return self._manager.restore(step, args=parts)
        except FAULTS as error:
            raise StorageError(
                f"Checkpoint {step} in {self._manager.directory} cannot be restored: {_first_line(error)}."
            ) from error

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300].rstrip(".: ")


def _plain(state: State) -> State:
    """The state with its key as numbers, which is what can be stored."""
    return state.replace(key=jax.random.key_data(state.key))
