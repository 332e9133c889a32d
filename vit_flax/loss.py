"""What training minimises, and what evaluation counts.

Shapes: logits (B, classes); targets (B, classes), each row a distribution over the classes; mask (B,), 1 for an image
that counts and 0 for padding.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def targets(labels: Int[Array, "B"], num_classes: int, label_smoothing: float = 0.0) -> Float[Array, "B classes"]:
    """One-hot labels, of which `label_smoothing` is spread evenly over all classes (arXiv:1512.00567, section 7)."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), label_smoothing)


def cross_entropy(
    logits: Float[Array, "B classes"], targets: Float[Array, "B classes"], mask: Float[Array, "B"] | None = None
) -> Float[Array, ""]:
    """Mean cross-entropy of softmax(logits), in nats, over the images that count; at least in float32."""
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return masked_mean(optax.softmax_cross_entropy(wide, targets), mask)


def accuracy(
    logits: Float[Array, "B classes"], targets: Float[Array, "B classes"], mask: Float[Array, "B"] | None = None
) -> Float[Array, ""]:
    """The share of images that count whose largest logit is that of their likeliest class."""
    return masked_mean(logits.argmax(axis=-1) == targets.argmax(axis=-1), mask)


def masked_mean(values: Array, mask: Float[Array, "B"] | None) -> Float[Array, ""]:
    """The mean of the values whose mask is 1; of all of them without a mask."""
    return jnp.mean(values) if mask is None else jnp.sum(values * mask) / jnp.sum(mask)
