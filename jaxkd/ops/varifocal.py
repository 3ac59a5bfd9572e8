"""Varifocal loss: class logits that are to be the quality of a box, with few false positives."""

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int


def varifocal_loss(
    logits: Float[Array, "*n k"],
    labels: Int[Array, "*n"],
    *,
    quality: Float[Array, "*n"],
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Float[Array, "*n k"]:
    """Binary cross entropy of each class (Zhang et al. 2021, VarifocalNet, arXiv 2008.13367, equation 2); float32.

    The label's target and weight are the quality; another class's target is 0, its weight alpha * p^gamma. Gradients
    flow into the logits through the cross entropy alone, and not into the quality.

    Args:
      logits: one for each class, each class on its own.
      labels: index of the class; the number of classes for background.
      quality: IoU of each predicted box with its truth, in [0, 1].
      alpha: weight of the classes that are not the label.
      gamma: exponent by which those of low probability lose weight.
    """
    logits = logits.astype(jnp.float32)
    is_label = jax.nn.one_hot(labels, logits.shape[-1])
    targets = is_label * lax.stop_gradient(quality.astype(jnp.float32))[..., None]
    others = alpha * lax.stop_gradient(jax.nn.sigmoid(logits)) ** gamma
    return jnp.where(is_label > 0, targets, others) * (jax.nn.softplus(logits) - targets * logits)
