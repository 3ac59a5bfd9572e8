"""What every test shares: four devices, a compile cache, and the folder of real data."""

import gc
import os
import signal
from pathlib import Path

import quick_compile

os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4", quick_compile.FLAGS)
).strip()

import jax
import pytest
from hypothesis import settings

CACHE = Path.home() / ".cache" / "jaxkd-tests"
CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
# Files that take more than 50 s on a core, the longest first.
LONG = (
    *("test_colabs", "test_overfit", "test_two_processes", "test_golden_losses", "test_loop", "test_recipes"),
    *("test_formats", "test_quickstart", "test_roi_align", "test_taught_steps", "test_published", "test_distill"),
    *("test_docs", "test_step", "test_operations", "test_refresh"),
)
KEPT = 3 << 30  # bytes that a process may hold before its compiled programs are dropped
settings.register_profile(
    "fuzz", max_examples=500, deadline=None
)  # pytest --hypothesis-profile=fuzz, for more examples


def pytest_collection_modifyitems(items):
    """Files that take minutes come first, so that no worker waits for one at the end."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish(session):
    """Garbage is collected less often: tracing makes many objects that live on, and looking at them all takes time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard():
    """Where the tests were started to ignore signals, as nohup and background jobs are, they hear them all the same."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _times_are_taken_briefly():
    """What is compiled here is slow, and nobody reads how slow."""
    from jaxkd.evaluation import cost  # late: jaxtyping's hook has to be there first

    cost.SECONDS = 0.1


@pytest.fixture(scope="module", autouse=True)
def _programs_are_dropped():
    """A process that holds the programs and traces of many files is let go of them: they slow down all that follows."""
    yield
    if _resident() > KEPT:
        jax.clear_caches()
        gc.collect()


def _resident() -> int:
    """Bytes of memory that the process holds."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and published weights beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}, which is not here")
    return folder
