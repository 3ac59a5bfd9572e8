"""Rematerialisation: what of a net's blocks is kept for the gradient, and what is computed again."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

Remat = Literal["none", "convolutions", "blocks"]
CONVOLUTION = "convolution"  # the name of their results


def kept(convolved: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The result of a convolution, marked as what `remat` "convolutions" keeps."""
    return checkpoint_name(convolved, CONVOLUTION)


def rematted(block: type[nn.Module], remat: Remat) -> Callable[..., nn.Module]:
    """The class of blocks with less kept for the gradient; names of parameters and results stay.

    "none" keeps all that the gradient reads, "convolutions" the results of convolutions and not those of norms, masks
    and activations, "blocks" only the inputs of a block, all of which is then computed twice.

    Compiled for a TPU, "convolutions" saves temporary memory at the same number of operations. XLA on a CPU merges both
    computations again: there "blocks" saves nothing, and "convolutions" takes more than "none".
    """
    if remat == "none":
        return block
    policy = jax.checkpoint_policies.save_only_these_names(CONVOLUTION) if remat == "convolutions" else None
    return nn.remat(block, policy=policy)
