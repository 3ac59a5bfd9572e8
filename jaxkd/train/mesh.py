"""The devices of a run as a mesh of one axis, and arrays placed on it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd.errors import ConfigError
from jaxkd.nets.norm import DEVICES
from jaxkd.types import Batch

AXIS = DEVICES


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh over the first `devices` devices, or over all of them for 0.

    Raises ConfigError where fewer are available, or the number is negative.
    """
    available = jax.devices()
    if not 0 <= devices <= len(available):
        raise ConfigError(f"train.devices asks for {devices} devices, and {len(available)} are there.")
    return mesh_over(available[: devices or len(available)])


def mesh_over(devices: Sequence[Any]) -> Mesh:
    """A mesh over these devices, which may be those of a topology that is only compiled for."""
    return jax.make_mesh((len(devices),), (AXIS,), devices=devices, axis_types=(AxisType.Auto,))


def over_batch(function: Callable, mesh: Mesh, *, replicated: int, gathered: bool = False) -> Callable:
    """`function` by `shard_map`: its first `replicated` arguments replicated, its last, the batch, split over devices.

    Its results must be equal on all devices, or, where `gathered`, are each device's part of the batch.
    """
    # With check_vma, shard_map would sum gradients over devices implicitly; the step does so explicitly.
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(P(),) * replicated + (P(AXIS),),
        out_specs=P(AXIS) if gathered else P(),
        check_vma=False,
    )


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This process's part of a batch as one global array a field."""
    sharding = NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def put_replicated(tree, mesh: Mesh):
    """The tree, which every process has, replicated on all devices."""
    sharding = NamedSharding(mesh, P())
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)
