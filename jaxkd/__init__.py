"""jaxkd: train object detectors in JAX and distil a big one into a small one."""

from jaxkd.version import VERSION

__version__ = VERSION


def load(path, *, classes=()):
    """A detector to be called with pictures, from a workdir, a folder of weights or a published file (or FILE:PART).

    See `jaxkd.predictor.load`, which this is; jax is imported only when it is called.
    """
    from jaxkd import predictor  # late, for jax is slow to load, and `jaxkd --help` and `--version` do without it

    return predictor.load(path, classes=classes)
