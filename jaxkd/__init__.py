"""jaxkd: train object detectors in JAX and distil a big one into a small one."""

__version__ = "0.1.0"
