"""What every fuzz test shares: how many examples, and what an answer may cost."""

import contextlib
import resource
import time

from hypothesis import HealthCheck, Phase, settings

SECONDS, GIGABYTE = 5, 1 << 20  # of ru_maxrss, which counts in KiB
MANY = settings().max_examples > 100  # --hypothesis-profile=fuzz


def quick(examples):
    """Settings of a test with so many examples, the same each time; of all 500 by the profile "fuzz"."""
    return settings(
        max_examples=settings().max_examples if MANY else examples,
        derandomize=not MANY,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def bounded():
    """Fails where what is inside takes longer than five seconds or a gigabyte more than before."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert time.monotonic() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIGABYTE
