"""The table of benchmarks, and the peer benchmark on a machine that has jax and flax and little else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parents[1]
BARE = """
import runpy, sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = {arguments}
sys.path.insert(0, {folder!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MISSING = {"grain", "tensorflow_datasets", "pycocotools", "ml_collections", "orbax", "cv2", "torch", "torchvision"}


def run_bare(script, *arguments):
    """What the script prints in a process that cannot import any of MISSING."""
    arguments = [str(ROOT / "benchmarks" / script), *map(str, arguments)]
    program = BARE.format(missing=MISSING, arguments=arguments, folder=str(ROOT / "benchmarks"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_peers_are_timed_without_data_packages_and_without_torch(tmp_path):
    files = [
        "--out",
        tmp_path / "peers.json",
        "--markdown",
        tmp_path / "peers.md",
        "--cache",
        jax.config.jax_compilation_cache_dir,
    ]
    small = ["--tiny", "--sizes", "64x64", "--batches", "1", "--rounds", "1", "--detectors", "retinanet"]
    printed = run_bare("peers.py", "--cases", "train", "nms", *small, *files)
    found = json.loads((tmp_path / "peers.json").read_text())
    assert [row["case"]["what"] for row in found["rows"]] == ["train", "nms"]
    assert all(row["milliseconds"]["jaxkd"] > 0 for row in found["rows"])
    assert found["left_out"] == {"torchvision": "not asked for"}
    assert (tmp_path / "peers.md").read_text() in printed


def test_cases_that_no_longer_fit_into_the_time_are_listed(tmp_path):
    options = ["--tiny", "--minutes", "0", "--cases", "nms", "--batches", "1", "--sizes", "64x64"]
    assert "nms, float32, batch 1, 64x64: no time left of 0 minutes" in run_bare("peers.py", *options)


def test_the_table_has_one_row_for_each_file_with_flags_that_exist():
    text = (ROOT / "benchmarks/README.md").read_text()
    rows = re.findall(r"^\| `(\w+\.py)` \| ([^|]+) \| (?:`([^|`]+)`)? ?\|$", text, re.MULTILINE)
    assert [name for name, _, _ in rows] == sorted(file.name for file in (ROOT / "benchmarks").glob("*.py"))
    for name, what, command in rows:
        script = (ROOT / "benchmarks" / name).read_text()
        assert what.strip()
        assert bool(command) == ("__main__" in script), f"{name} has a command if it is a program"
        assert not command or command.startswith(f"python benchmarks/{name}")
        assert all(f'"{flag}"' in script for flag in re.findall(r"(?<=\s)--[\w-]+", command)), name
