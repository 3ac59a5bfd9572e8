"""Communication between the processes of a run: joining, agreement, gathering, and the vote to stop."""

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

from jaxkd.cluster.process_info import ProcessInfo
from jaxkd.errors import ConfigError, HostLostError
from jaxkd.train.mesh import AXIS

TIMEOUT = 120  # seconds for all processes to join


def join(info: ProcessInfo) -> None:
    """Makes this process one of several; to be called before anything else of JAX.

    Raises HostLostError where the others cannot be reached in time.
    """
    try:
        jax.distributed.initialize(
            info.coordinator,
            info.processes,
            info.process,
            local_device_ids=info.device,
            cluster_detection_method="deactivate",  # on Slurm it would leave each process one device
            initialization_timeout=TIMEOUT,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise HostLostError(
            f"Process {info.process} could not join the run at {info.coordinator}: {reason}."
        ) from error


def is_first() -> bool:
    """Whether this is process 0, which alone writes files and prints."""
    return jax.process_index() == 0


def agree(facts: Mapping[str, str]) -> None:
    """Returns where all processes hold the same facts.

    Raises ConfigError, on all of them, naming the facts that differ and the processes that differ from the first.
    """
    if jax.process_count() == 1:
        return
    local_digests = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in facts.values()]
    digests = np.asarray(multihost_utils.process_allgather(np.stack(local_digests))).reshape(-1, len(facts), 32)
    differs = (digests != digests[0]).any(-1)
    if differs.any():
        names = " and ".join(name for name, differ in zip(facts, differs.any(0), strict=True) if differ)
        processes = ", ".join(map(str, np.flatnonzero(differs.any(1))))
        raise ConfigError(f"Not all processes have the same {names}: process {processes} differs from process 0.")


def from_first(number: int) -> int:
    """The number that process 0 passed, on all processes."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def gathered(tree: Any) -> Any:
    """The full numpy arrays of which every process has a part, in the order of the processes."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def total(number: int) -> int:
    """The sum of the numbers of all processes."""
    if jax.process_count() == 1:
        return number
    return int(np.sum(multihost_utils.process_allgather(np.int32(number))))


def wait(name: str) -> None:
    """Returns once every process has called it: a barrier with this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Vote:
    """Whether any process got a signal to stop: cast at every step, read a step later, equal on all processes.

    The sum over devices runs asynchronously beside the training step, so that no process waits for it.
    """

    def __init__(self, devices: Mesh):
        self._sharding = NamedSharding(devices, P(AXIS))
        self._alone = jax.process_count() == 1
        summed = jax.shard_map(lambda votes: lax.psum(votes.sum(), AXIS), mesh=devices, in_specs=P(AXIS), out_specs=P())
        self._sum = jax.jit(summed)
        self._count = len(self._sharding.addressable_devices)
        self._pending: jax.Array | bool = False  # the result of the last vote

    def cast(self, stop: bool) -> bool:
        """Casts this process's vote, and returns the result of the vote before (with one process, of this one too)."""
        previous = bool(self._pending)
        if self._alone:
            self._pending = stop
            return previous or stop
        votes = np.full(self._count, stop, np.int32)
        self._pending = self._sum(jax.make_array_from_process_local_data(self._sharding, jnp.asarray(votes)))
        return previous
