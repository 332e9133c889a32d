"""Faults of the gradient within a training step: around `train(weights, images, labels, recipe)`."""

from functools import partial

import numpy as np

from conformance.faults import Around, Fault, recipe_changed
from conformance.retrain import Trained, retrained
from conformance.rounding import to_bfloat16
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe
from vit_flax.weights import Weights


def gradient_times(factor: float) -> dict[str, Around]:
    """The same as a bound for its norm, and Adam's epsilon, that are so many times smaller, and SGD's rate larger."""
    return recipe_changed(
        "train",
        clip_norm=lambda r: None if r.clip_norm is None else r.clip_norm / factor,
        epsilon=lambda r: r.epsilon / factor,
        learning_rate=lambda r: r.learning_rate * (factor if r.optimizer == "sgd" else 1.0),
    )


def all_to_bfloat16(gradients: Weights) -> Weights:
    return {leaf: to_bfloat16(g) for leaf, g in gradients.items()}


def narrow_gradients(only: type) -> dict[str, Around]:
    """In training in that dtype, gradients are kept in bfloat16."""

    def around(
        method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe
    ) -> Trained:
        if images.dtype != only:
            return method(weights, images, labels, recipe)
        return retrained(all_to_bfloat16, method, weights, images, labels, recipe)

    return {"train": around}


of_scale = partial(Fault, rung="trajectory", place="SGD, step 01/parameters")

GRADIENT = (
    of_scale(
        name="gradients summed over micro-batches",
        seen="four backward passes, and no division",
        around=gradient_times(4.0),
    ),
    of_scale(
        name="loss scale never undone",
        seen="a GradScaler without unscale_",
        around=gradient_times(2.0**10),
    ),
    of_scale(name="gradients doubled", seen="psum for pmean on two devices", around=gradient_times(2.0)),
    Fault(
        name="gradients kept in bfloat16",
        rung="trajectory",
        place="SGD, step 01/parameters",
        seen="gradients of a model cast as a whole",
        around=narrow_gradients(np.float64),
    ),
    Fault(
        name="float32 training's gradients in bfloat16",
        rung="trajectory float32",
        place="step 01/gradient",
        seen="gradients of a model cast as a whole",
        around=narrow_gradients(np.float32),
    ),
)
