"""A training step rebuilt from a side's own gradients, so that a fault can stand between the gradient and the update.

Faults change what goes into a method or comes out of it. What happens to a gradient inside `train` does neither, so
the side is asked for the gradient alone, and clipping, the optimizer and the schedule follow here in NumPy.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from conformance.faults import Around
from vit_flax.recipe import Recipe
from vit_flax.weights import Weights

# A step of plain SGD at this rate moves the weights so far that, next to the gradient, they are lost in rounding.
ALL_GRADIENT = 2.0**40

Trained = tuple[np.ndarray, list[Weights]]


def retrained(
    change: Callable[[Weights], Weights],
    method: Around,
    weights: Weights,
    images: np.ndarray,
    labels: np.ndarray,
    recipe: Recipe,
    kept: Callable[[Weights, Weights], Weights] = lambda before, after: after,
    optimizer: Callable[[Recipe], "Moments"] | None = None,
    gradient: Callable[..., tuple[np.ndarray, Weights]] | None = None,
) -> Trained:
    """What `method`, a side's `train`, returns for AdamW and SGD, each gradient changed before it is clipped.

    `kept(before, after)` are the weights that the next step begins with; `optimizer` makes the steps; `gradient` is
    asked as `one_gradient` is.
    """
    moments = (optimizer or Moments)(recipe)
    losses, after = [], []
    for step in range(len(images)):
        loss, gradients = (gradient or one_gradient)(method, weights, images[step], labels[step], recipe)
        weights = kept(weights, moments.updated(weights, clipped(change(gradients), recipe), step))
        losses.append(loss)
        after.append(weights)
    return np.array(losses), after


def one_gradient(
    method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, Weights]:
    """The loss of one batch and its gradient."""
    plain = recipe.replace(
        optimizer="sgd",
        momentum=0.0,
        learning_rate=ALL_GRADIENT,
        schedule="constant",
        warmup_epochs=0.0,
        weight_decay=0.0,
        clip_norm=None,
    )
    losses, (after,) = method(weights, images[None], labels[None], plain)
    return losses[0], {leaf: (weights[leaf] - after[leaf]) / x.dtype.type(ALL_GRADIENT) for leaf, x in after.items()}


def clipped(gradients: Weights, recipe: Recipe) -> Weights:
    if recipe.clip_norm is None:
        return gradients
    norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values()))
    scale = min(1.0, recipe.clip_norm / norm)
    return {leaf: (scale * g).astype(g.dtype) for leaf, g in gradients.items()}


@dataclasses.dataclass
class Moments:
    """AdamW's running averages of the gradient and of its square (arXiv:1711.05101, algorithm 2), or SGD's momentum."""

    recipe: Recipe
    first: Weights = dataclasses.field(default_factory=dict)
    second: Weights = dataclasses.field(default_factory=dict)

    def updated(self, weights: Weights, gradients: Weights, step: int) -> Weights:
        """The weights after the update of a step, counted from 0."""
        r, rate, after = self.recipe, self.rate(step), {}
        if r.optimizer == "sgd":
            return self.by_velocity(weights, gradients, rate)
        for leaf, g in gradients.items():
            first = r.momentum * self.first.get(leaf, 0.0) + (1 - r.momentum) * g
            second = r.beta2 * self.second.get(leaf, 0.0) + (1 - r.beta2) * g**2
            self.first[leaf], self.second[leaf] = first, second
            unbiased = first / (1 - r.momentum ** (step + 1))
            root = np.sqrt(second / (1 - r.beta2 ** (step + 1)))
            decay = self.decay(rate) if leaf.endswith("kernel") else 0.0
            after[leaf] = (weights[leaf] - rate * unbiased / (root + r.epsilon) - decay * weights[leaf]).astype(g.dtype)
        return after

    def rate(self, step: int) -> float:
        return learning_rate(self.recipe, step)

    def decay(self, rate: float) -> float:
        """The share of a kernel that a step at this rate takes off."""
        return rate * self.recipe.weight_decay

    def by_velocity(self, weights: Weights, gradients: Weights, rate: float) -> Weights:
        """SGD as PyTorch and optax have it: the rate is that of the step, also for gradients before it."""
        self.first = {leaf: self.recipe.momentum * self.first.get(leaf, 0.0) + g for leaf, g in gradients.items()}
        return {leaf: (weights[leaf] - rate * v).astype(v.dtype) for leaf, v in self.first.items()}


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up from zero, then constant or half a cosine down to zero; an epoch is one step."""
    warmup = round(recipe.warmup_epochs)
    if step < warmup:
        return recipe.learning_rate * step / warmup
    if recipe.schedule == "constant":
        return recipe.learning_rate
    share = (step - warmup) / (recipe.epochs - warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * share)) / 2
