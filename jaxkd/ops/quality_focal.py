"""Quality focal loss: class logits that are to be the quality of the box, the IoU with its truth."""

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int


def quality_focal_loss(
    logits: Float[Array, "*n k"], labels: Int[Array, "*n"], *, quality: Float[Array, "*n"], beta: float = 2.0
) -> Float[Array, "*n k"]:
    """Quality focal loss of each class (Li et al. 2020, arXiv 2006.04388, equation 5).

    The target of a class is the quality where it is the label, else 0; see `soft_focal_loss`.

    Args:
        logits: one for each class, each class on its own.
        labels: index of the class; the number of classes for background.
        quality: IoU of each predicted box with its truth, in [0, 1].
        beta: exponent by which logits near their targets lose weight.

    Raises:
        ValueError: if `beta` is below 1.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1]) * quality.astype(jnp.float32)[..., None]
    return soft_focal_loss(logits, targets, beta=beta)


def soft_focal_loss(
    logits: Float[Array, "*n"], targets: Float[Array, "*n"], *, beta: float = 2.0
) -> Float[Array, "*n"]:
    """Binary cross entropy with targets in [0, 1], times |sigmoid(logit) - target| to the power of `beta`; float32.

    Gradients flow into the logits, through both factors, and not into the targets.

    Raises:
        ValueError: if `beta` is below 1, where the gradient at the target would not be finite.
    """
    if beta < 1:
        raise ValueError(f"Quality focal loss needs beta >= 1, not {beta}.")
    logits, targets = logits.astype(jnp.float32), lax.stop_gradient(targets.astype(jnp.float32))
    cross_entropy = jax.nn.softplus(logits) - targets * logits
    return cross_entropy * jnp.abs(jax.nn.sigmoid(logits) - targets) ** beta
