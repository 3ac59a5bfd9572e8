"""Devices to compile for: the local ones, or those of a TPU slice that is only described."""

import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from jaxkd.errors import ConfigError, first_line
from jaxkd.silence import silent_stderr
from jaxkd.train import mesh
from jaxkd.version import install_line

HERE = "here"
# Read by libtpu when it is loaded. It is used to compile only, so it must not query a cloud's metadata server, nor
# refuse because another process of the machine uses the TPU, nor log to stderr.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def compile_only() -> None:
    """Sets jax to compile for devices that are not here: it uses neither local accelerators nor the compilation cache.

    A program for other devices can be stored in the cache but not read back.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)


def mesh_of(topology: str, *, devices: int = 0) -> Mesh:
    """A mesh over all devices of a topology such as "v5e:16x16"; for "here" over the first `devices`, or all for 0.

    Raises ConfigError where libtpu is not installed, or knows no such topology, or fewer devices are here.
    """
    if topology == HERE:
        return mesh.make_mesh(devices)
    name, _, sides = topology.partition(":")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", sides):
        raise _unknown(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(f"Compiling for {topology} needs libtpu, which is not installed: {install_line('tpu')}.")
    options: dict[str, Any] = {"chip_config_name": "megacore"} if name == "v4" else {}  # one device a chip
    if math.prod(int(side) for side in sides.split("x")) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # a host of four is the default
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    try:
        with silent_stderr():
            description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" in str(error):
            raise _unknown(topology) from error
        raise ConfigError(f"libtpu gives no topology {topology}: {first_line(error)}.") from error
    return mesh.mesh_over(description.devices)


def _unknown(topology: str) -> ConfigError:
    return ConfigError(
        f"There is no topology {topology!r}; write a TPU's version and the sides of a slice, such as v5e:16x16, "
        "v6e:2x4 or v5p:4x4x4, or 'here'."
    )
