"""jaxkd: train object detectors in JAX and distil a big one into a small one."""

from jaxkd.version import VERSION

__version__ = VERSION


def load(path, *, classes=()):
    """A detector to call with pictures, from a workdir, a folder of weights or a published file (or FILE:PART).

    The same as `jaxkd.predictor.load`; jax is imported only when it is called.
    """
    from jaxkd import predictor  # late: jax is slow to load, and `jaxkd --help` and `--version` do not need it

    return predictor.load(path, classes=classes)
