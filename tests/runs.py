"""What a finished run left behind, as numbers."""

import jax
import numpy as np
from orbax import checkpoint as ocp

from jaxkd.train import checkpoint


def arrays(workdir, *, step):
    """Every array of the last checkpoint, which is that of `step`, by its path."""
    folder = (workdir / "checkpoints").absolute()
    assert checkpoint.newest(folder).step == step
    with ocp.PyTreeCheckpointer() as reader:
        found = reader.restore(folder / str(step))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(found)}
