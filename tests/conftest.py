"""What every test shares: four devices, a compile cache, and the folder of real data."""

import os
from pathlib import Path

import jax
import pytest

# Most of the time goes into compiling, which takes half of it for programs that are not made fast.
FLAGS = ["--xla_force_host_platform_device_count=4"]
if jax.__version_info__ < (0, 11):  # a flag that XLA does not know would end the process
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*os.environ.get("XLA_FLAGS", "").split(), *FLAGS])
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of processes that tests start
jax.config.update("jax_disable_most_optimizations", True)

CACHE = Path.home() / ".cache" / "jaxkd-tests"
CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and published weights beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}, which is not here")
    return folder
