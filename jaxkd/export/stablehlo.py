"""StableHLO by `jax.export`: one file for CPU, GPU and TPU, run by JAX without jaxkd."""

from pathlib import Path

import jax
import jax.export

from jaxkd.export.base import Subject

FILE, EXTRA, NEEDS = "model.stablehlo", "", ("flatbuffers",)  # needed by jax.export but not installed with it
PLATFORMS = ("cpu", "cuda", "tpu")


def write(subject: Subject, file: Path) -> None:
    """Writes the program."""
    exported = jax.export.export(jax.jit(subject.exported), platforms=PLATFORMS)(*subject.shapes())
    file.write_bytes(exported.serialize())
