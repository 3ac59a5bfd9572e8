"""The number of this process in its run and the address of process 0, from flags or a scheduler's environment."""

import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxkd.errors import ConfigError

KINDS = ("auto", "one", "explicit", "slurm", "kubernetes", "tpu")
PORT = 29470  # of the coordinator by default; the next port is that of the heartbeat
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclass(frozen=True)
class ProcessInfo:
    """One process among those of a run."""

    coordinator: str  # HOST:PORT of process 0
    processes: int
    process: int
    device: int | None = None  # the only local device to use, where several processes share a host

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def find(
    kind: str,
    *,
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    environment: Mapping[str, str],
    metadata: Callable[[str], str] | None = None,
) -> ProcessInfo | None:
    """This process among those of its run, None for a run of one process.

    Args:
      kind: "one"; "explicit" for the next three arguments; "slurm", "kubernetes" or "tpu" to read the environment of
        these; "auto" for the first that applies: the arguments, Slurm, Kubernetes, a TPU slice.
      coordinator: HOST:PORT of process 0, which the others can reach; the next port is used too.
      processes: number of processes.
      process: number of this process, from 0.
      environment: of this process.
      metadata: reads an attribute of a TPU's virtual machine; by default from its metadata server.

    Raises ConfigError for values that are not possible, and for a kind that the environment does not describe.
    """
    if kind not in KINDS:
        raise ConfigError(f"--cluster must be one of {', '.join(KINDS)}; got '{kind}'.")
    has_arguments = bool(coordinator) or processes > 0 or process >= 0
    if has_arguments and kind not in ("auto", "explicit"):
        raise ConfigError(f"--coordinator, --processes and --process go with --cluster=explicit, not '{kind}'.")
    if kind == "explicit" or has_arguments:
        return _checked(ProcessInfo(coordinator, processes, process))
    if kind == "one":
        return None
    finders = {"slurm": _slurm, "kubernetes": _kubernetes, "tpu": _tpu}
    for name, finder in finders.items():
        if kind in ("auto", name) and (info := finder(environment)):
            return _checked(info) if info.processes > 1 else None
    if kind == "tpu":
        return _from_metadata(metadata or _read_metadata)
    if kind != "auto":
        raise ConfigError(
            f"--cluster={kind}, and the environment names no such cluster; see README, TPU pods and clusters."
        )
    return None


def _checked(info: ProcessInfo) -> ProcessInfo:
    if not re.fullmatch(r"(\[[^\]]+\]|[^:\s]+):[0-9]{1,5}", info.coordinator):
        raise ConfigError(f"--coordinator wants HOST:PORT, got '{info.coordinator}'.")
    if not 1024 <= info.address[1] < 65535:
        raise ConfigError(f"--coordinator wants a port from 1024 to 65534, got {info.address[1]}.")
    if not 0 <= info.process < info.processes:
        raise ConfigError(f"--process={info.process} is not one of --processes={info.processes}, counted from 0.")
    return info


def _slurm(environment: Mapping[str, str]) -> ProcessInfo | None:
    """From a job step of `srun`; None in a batch script itself."""
    if "SLURM_STEP_NODELIST" not in environment:
        return None
    numbers = _numbers(environment, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_JOB_ID")
    shared = not re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    return ProcessInfo(
        f"{first_host(environment['SLURM_STEP_NODELIST'])}:{20000 + 2 * (numbers[2] % 20000)}",
        processes=numbers[0],
        process=numbers[1],
        device=_numbers(environment, "SLURM_LOCALID")[0] if shared else None,
    )


def _kubernetes(environment: Mapping[str, str]) -> ProcessInfo | None:
    """From an indexed job whose manifest names the coordinator."""
    if not environment.get("JAXKD_COORDINATOR"):
        return None
    processes, process = _numbers(environment, "JAXKD_PROCESSES", "JOB_COMPLETION_INDEX")
    return ProcessInfo(environment["JAXKD_COORDINATOR"], processes, process)


def _tpu(environment: Mapping[str, str]) -> ProcessInfo | None:
    """From a TPU slice in Kubernetes, whose hosts are listed."""
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if len(hosts) < 2:
        return None
    return ProcessInfo(f"{hosts[0]}:{PORT}", len(hosts), _numbers(environment, "TPU_WORKER_ID")[0])


def _from_metadata(read: Callable[[str], str]) -> ProcessInfo | None:
    """From the metadata server of a TPU virtual machine."""
    try:
        worker, endpoints = int(read("agent-worker-number")), read("worker-network-endpoints").split(",")
        hosts = [endpoint.split(":")[2] for endpoint in endpoints]
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"--cluster=tpu, and no metadata server tells of a TPU slice here: {error}.") from error
    return _checked(ProcessInfo(f"{hosts[0]}:{PORT}", len(hosts), worker)) if len(hosts) > 1 else None


def _read_metadata(name: str) -> str:
    request = urllib.request.Request(METADATA + name, headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(request, timeout=5) as response:
        return response.read().decode()


def _numbers(environment: Mapping[str, str], *names: str) -> list[int]:
    values = []
    for name in names:
        if not re.fullmatch(r"[0-9]+", environment.get(name, "")):
            raise ConfigError(f"The environment's {name} must be a number, got '{environment.get(name, '')}'.")
        values.append(int(environment[name]))
    return values


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: "gpu[007-009,12],x1" gives "gpu007"."""
    match = re.match(r"([^,\[]+)(?:\[([0-9]+))?", nodes)
    if not match:
        raise ConfigError(f"The environment's SLURM_STEP_NODELIST names no host: '{nodes}'.")
    return match[1] + (match[2] or "")
