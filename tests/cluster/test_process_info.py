"""Where a process stands: from flags, and from the words of each scheduler."""

import pytest

from jaxkd.cluster.process_info import PORT, ProcessInfo, find, first_host
from jaxkd.errors import ConfigError

SLURM = {
    "SLURM_JOB_ID": "20012",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NODELIST": "gpu[007-009,12],login1",
    "SLURM_STEP_TASKS_PER_NODE": "1(x16)",
}
KUBERNETES = {"JAXKD_COORDINATOR": "run-0-0.run:29470", "JAXKD_PROCESSES": "4", "JOB_COMPLETION_INDEX": "2"}
TPU = {"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_WORKER_ID": "1"}


def test_flags_come_before_the_environment():
    flags = {"coordinator": "[::1]:2000", "processes": 2, "process": 1}
    assert find("auto", **flags, environment=SLURM) == ProcessInfo("[::1]:2000", 2, 1)
    assert find("explicit", **flags, environment={}).address == ("::1", 2000)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (SLURM, ProcessInfo("gpu007:20024", 16, 3)),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "3"},
            ProcessInfo("gpu007:20024", 16, 3, device=3),
        ),
        ({"SLURM_JOB_ID": "20012", "SLURM_PROCID": "0"}, None),  # the batch script itself
        (KUBERNETES, ProcessInfo("run-0-0.run:29470", 4, 2)),
        (TPU, ProcessInfo(f"t0:{PORT}", 2, 1)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    ],
)
def test_the_environment_tells(environment, expected):
    assert find("auto", environment=environment) == expected
    assert find("one", environment=environment) is None


def test_a_tpu_asks_its_metadata():
    answers = {"agent-worker-number": "1", "worker-network-endpoints": "a:b:10.0.0.2,c:d:10.0.0.3"}
    assert find("tpu", environment={}, metadata=answers.__getitem__) == ProcessInfo(f"10.0.0.2:{PORT}", 2, 1)
    alone = answers | {"worker-network-endpoints": "a:b:10.0.0.2", "agent-worker-number": "0"}
    assert find("tpu", environment={}, metadata=alone.__getitem__) is None

    def away(name):
        raise OSError("no such host")

    with pytest.raises(ConfigError, match="no metadata server tells of a TPU slice here: no such host"):
        find("tpu", environment={}, metadata=away)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a1", "a1"), ("a1,b2", "a1"), ("gpu[3,5-7]", "gpu3"), ("gpu[007-9]", "gpu007"), ("n-1[2],x", "n-12")],
)
def test_the_first_host_of_a_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ({"kind": "moon"}, {}, "must be one of auto"),
        ({"kind": "slurm", "processes": 2}, {}, "go with --cluster=explicit"),
        ({"kind": "slurm"}, {}, "names no such cluster"),
        ({"kind": "explicit"}, {}, "wants HOST:PORT, got ''"),
        ({"kind": "auto", "coordinator": "a", "processes": 2, "process": 0}, {}, "wants HOST:PORT, got 'a'"),
        ({"kind": "auto", "coordinator": "a:80", "processes": 2, "process": 0}, {}, "a port from 1024"),
        ({"kind": "auto", "coordinator": "a:2000", "processes": 2, "process": 2}, {}, "--process=2 is not one of"),
        ({"kind": "auto", "coordinator": "a:2000", "processes": 2}, {}, "--process=-1 is not one of"),
        ({"kind": "auto"}, KUBERNETES | {"JAXKD_PROCESSES": "many"}, "JAXKD_PROCESSES must be a number, got 'many'"),
        ({"kind": "auto"}, {k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, "SLURM_PROCID must be a number"),
        ({"kind": "auto"}, SLURM | {"SLURM_STEP_NODELIST": "["}, "names no host"),
    ],
)
def test_places_that_cannot_be(arguments, environment, words):
    with pytest.raises(ConfigError, match=words):
        find(**arguments, environment=environment)
