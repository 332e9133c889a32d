"""What a trained model says of images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vit_flax.train import TrainState, eval_step


def probabilities(state: TrainState, images: np.ndarray) -> np.ndarray:
    """softmax(logits) of uint8 images: float32, (images, classes)."""
    logits = jax.jit(eval_step)(state, jnp.asarray(images))
    return np.asarray(jax.nn.softmax(logits, axis=-1))


def likeliest(probabilities: np.ndarray, classes: Sequence[str], count: int) -> str:
    """The `count` likeliest classes of one image, in words."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return ", ".join(f"{classes[i]} {probabilities[i]:.1%}" for i in order)
