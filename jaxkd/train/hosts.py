"""The processes of a run among each other: joined, agreed, and asked whether one of them was told to stop."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd.cluster.place import Place
from jaxkd.errors import ConfigError, HostLostError
from jaxkd.train.mesh import AXIS

TIMEOUT = 120  # seconds for all processes to join


def join(place: Place) -> None:
    """Makes this process one of several; before anything else is asked of JAX.

    Raises HostLostError where the others cannot be reached in time.
    """
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.processes,
            place.process,
            local_device_ids=place.device,
            cluster_detection_method="deactivate",  # on Slurm it would leave each process one device
            initialization_timeout=TIMEOUT,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise HostLostError(
            f"Process {place.process} could not join the run at {place.coordinator}: {reason}."
        ) from error


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def agree(facts: Mapping[str, str]) -> None:
    """Returns where all processes hold the same facts.

    Raises ConfigError, on all of them, naming the facts that differ and the processes that differ from the first.
    """
    if jax.process_count() == 1:
        return
    mine = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in facts.values()]
    all_of_them = np.asarray(multihost_utils.process_allgather(np.stack(mine))).reshape(-1, len(facts), 32)
    differs = (all_of_them != all_of_them[0]).any(-1)
    if differs.any():
        what = " and ".join(name for name, one in zip(facts, differs.any(0), strict=True) if one)
        who = ", ".join(map(str, np.flatnonzero(differs.any(1))))
        raise ConfigError(f"Not all processes have the same {what}: process {who} differs from process 0.")


def from_first(number: int) -> int:
    """The number that process 0 gave."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def whole(tree: Any) -> Any:
    """Arrays of which every process has a part, in the order of the processes, whole and as numpy."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def total(number: int) -> int:
    """The sum of what every process gives."""
    if jax.process_count() == 1:
        return number
    return int(np.sum(multihost_utils.process_allgather(np.int32(number))))


def wait(name: str) -> None:
    """Returns once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Vote:
    """Whether any process was asked to stop: cast at every step, read a step later, the same answer everywhere.

    The sum over devices goes its way beside the training, so nobody waits for it.
    """

    def __init__(self, devices: Mesh):
        self._sharding = NamedSharding(devices, P(AXIS))
        self._alone = jax.process_count() == 1
        summed = jax.shard_map(lambda votes: lax.psum(votes.sum(), AXIS), mesh=devices, in_specs=P(AXIS), out_specs=P())
        self._sum = jax.jit(summed)
        self._count = len(self._sharding.addressable_devices)
        self._cast: jax.Array | bool = False

    def cast(self, stop: bool) -> bool:
        """Hands in this process's vote, and tells what came of the one before."""
        before = bool(self._cast)
        if self._alone:
            self._cast = stop
            return before or stop
        mine = np.full(self._count, stop, np.int32)
        self._cast = self._sum(jax.make_array_from_process_local_data(self._sharding, jnp.asarray(mine)))
        return before
