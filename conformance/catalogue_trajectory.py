"""Faults of the course of training: around `train(weights, images, labels, recipe)`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from conformance.faults import Around, Fault, recipe_changed
from conformance.retrain import Moments, Trained, clipped, one_gradient, retrained
from conformance.rounding import to_bfloat16
from conformance.training import SGD_STEPS
from vit_flax.recipe import Recipe
from vit_flax.weights import Weights

Array = np.ndarray


def trained(change: Callable[[Around, Weights, Array, Array, Recipe], Any]) -> dict[str, Around]:
    """Training, with something else done around its steps."""
    return {"train": lambda method, config, *arguments: change(method, *arguments)}


def optimizer_forgotten(method: Around, weights: Weights, images: Array, labels: Array, recipe: Recipe) -> Any:
    """Resumed half-way from the parameters alone."""
    half = len(images) // 2
    losses, first = method(weights, images[:half], labels[:half], recipe)
    more, second = method(first[-1], images[half:], labels[half:], recipe)
    return np.concatenate([losses, more]), first + second


def batches_swapped(method: Around, weights: Weights, images: Array, labels: Array, recipe: Recipe) -> Any:
    return in_order([0, 2, 1, *range(3, len(images))], method, weights, images, labels, recipe)


def batch_repeated(method: Around, weights: Weights, images: Array, labels: Array, recipe: Recipe) -> Any:
    return in_order([0, 1, 2, 2, *range(4, len(images))], method, weights, images, labels, recipe)


def in_order(order: list[int], method: Around, weights: Weights, images: Array, labels: Array, recipe: Recipe) -> Any:
    order = [batch for batch in order if batch < len(images)]  # another fault may take its steps one by one
    return method(weights, images[order], labels[order], recipe)


def weights_rounded(method: Around, weights: Weights, images: Array, labels: Array, recipe: Recipe) -> Any:
    """In float32 runs, master weights start from bfloat16."""
    if images.dtype != np.float32:
        return method(weights, images, labels, recipe)
    return method({name: to_bfloat16(x) for name, x in weights.items()}, images, labels, recipe)


def unclipped_and_still(ending: str) -> dict[str, Around]:
    """A leaf without a gradient: it stays, and counts for no norm."""

    def without(gradients: Weights) -> Weights:
        return {leaf: np.zeros_like(g) if leaf.endswith(ending) else g for leaf, g in gradients.items()}

    return trained(partial(retrained, without))


def still(ending: str) -> dict[str, Around]:
    """A leaf that is not updated, and whose gradient counts for the norm as ever."""

    def kept(before: Weights, after: Weights) -> Weights:
        return {leaf: before[leaf] if leaf.endswith(ending) else x for leaf, x in after.items()}

    return trained(partial(retrained, as_it_is, kept=kept))


def as_it_is(gradients: Weights) -> Weights:
    return gradients


def narrow_between_steps(method: Around, weights: Weights, images: Array, labels: Array, recipe: Recipe) -> Trained:
    """In float64 runs, what is kept from step to step is float32."""
    if images.dtype != np.float64:
        return method(weights, images, labels, recipe)
    return retrained(as_it_is, method, weights, images, labels, recipe, kept=lambda before, after: in_float32(after))


def in_float32(weights: Weights) -> Weights:
    return {leaf: x.astype(np.float32).astype(x.dtype) for leaf, x in weights.items()}


def loss_afterwards(method: Around, weights: Weights, images: Array, labels: Array, recipe: Recipe) -> Trained:
    """The loss of each batch under the weights that were updated for it."""
    _, after = method(weights, images, labels, recipe)
    losses = [one_gradient(method, *step, recipe)[0] for step in zip(after, images, labels, strict=True)]
    return np.array(losses), after


def of_halves(of: Callable[[Weights, Weights, Recipe], Weights]) -> dict[str, Around]:
    """Each batch in two micro-batches; the gradient is `of` their shares of it."""

    def gradient(
        method: Around, weights: Weights, images: Array, labels: Array, recipe: Recipe
    ) -> tuple[Array, Weights]:
        loss, shares = np.zeros((), images.dtype), []
        for x, y in zip(np.array_split(images, 2), np.array_split(labels, 2), strict=True):
            share = x.dtype.type(len(x) / len(images))
            mean, gradients = one_gradient(method, weights, x, y, recipe)
            loss = loss + share * mean
            shares.append({leaf: share * g for leaf, g in gradients.items()})
        first, second = shares
        return loss, of(first, second, recipe)

    return trained(partial(retrained, as_it_is, gradient=gradient))


def each_clipped(first: Weights, second: Weights, recipe: Recipe) -> Weights:
    """The mean of two gradients that were clipped: each share is clipped to half the norm."""
    half = recipe if recipe.clip_norm is None else recipe.replace(clip_norm=recipe.clip_norm / 2)
    return added(clipped(first, half), clipped(second, half))


def clipped_on_the_way(first: Weights, second: Weights, recipe: Recipe) -> Weights:
    return clipped(added(clipped(first, recipe), second), recipe)


def added(first: Weights, second: Weights) -> Weights:
    return {leaf: g + second[leaf] for leaf, g in first.items()}


class SchedulerFirst(Moments):
    def rate(self, step: int) -> float:
        return super().rate(step + 1)


class DecayAtThePeak(Moments):
    def decay(self, rate: float) -> float:
        return super().decay(self.recipe.learning_rate)


class RateInTheVelocity(Moments):
    def by_velocity(self, weights: Weights, gradients: Weights, rate: float) -> Weights:
        m, last = self.recipe.momentum, self.first
        self.first = {leaf: (m * last.get(leaf, 0.0) - rate * g).astype(g.dtype) for leaf, g in gradients.items()}
        return {leaf: weights[leaf] + v for leaf, v in self.first.items()}


def stepping(optimizer: type[Moments]) -> dict[str, Around]:
    return trained(partial(retrained, as_it_is, optimizer=optimizer))


of_leaf = partial(Fault, rung="trajectory", place="SGD, step 01/parameters")

TRAJECTORY = (
    Fault(
        name="optimizer forgotten half-way",
        rung="trajectory",
        place=f"SGD, step {SGD_STEPS // 2 + 1:02}/parameters",
        seen="resumed from the parameters alone",
        around=trained(optimizer_forgotten),
    ),
    Fault(
        name="batches in another order",
        rung="trajectory",
        place="SGD, step 02/loss",
        seen="another shuffling",
        around=trained(batches_swapped),
    ),
    Fault(
        name="a batch repeated",
        rung="trajectory",
        place="SGD, step 04/loss",
        seen="an iterator that starts again",
        around=trained(batch_repeated),
    ),
    Fault(
        name="a rate of 1.01 times",
        rung="trajectory",
        place="SGD, step 01/parameters",
        seen="scaled for another batch size",
        around=recipe_changed("train", learning_rate=lambda r: 1.01 * r.learning_rate),
    ),
    Fault(
        name="scheduler stepped first",
        rung="trajectory",
        place="SGD, step 01/parameters",
        seen="scheduler.step() before optimizer.step(), as before PyTorch 1.1",
        around=stepping(SchedulerFirst),
    ),
    Fault(
        name="rate inside the velocity",
        rung="trajectory",
        place="SGD, step 02/parameters",
        seen="Keras's and Caffe's SGD: old gradients keep the rate of their own step",
        around=stepping(RateInTheVelocity),
    ),
    Fault(
        name="decay at the highest rate",
        rung="trajectory",
        place="step 01/parameters",
        seen="a decay of weight_decay · the peak rate, which no schedule moves",
        around=stepping(DecayAtThePeak),
    ),
    Fault(
        name="not clipped in training",
        rung="trajectory",
        place="step 02/parameters",
        seen="clipping after the update, which is short already",
        around=recipe_changed("train", clip_norm=None),
    ),
    Fault(
        name="clipped before unscaling",
        rung="trajectory",
        place="step 02/parameters",
        seen="clip_grad_norm_ without scaler.unscale_: the norm is of a loss times 65,536, PyTorch's first scale",
        around=recipe_changed("train", clip_norm=lambda r: r.clip_norm and r.clip_norm / 2**16),
    ),
    Fault(
        name="micro-batches clipped one by one",
        rung="trajectory",
        place="step 02/parameters",
        seen="optax.MultiSteps inside optax.chain, after the clipping",
        around=of_halves(each_clipped),
    ),
    Fault(
        name="clipped after each micro-batch",
        rung="trajectory",
        place="step */parameters",
        seen="clip_grad_norm_ in the loop that accumulates",
        around=of_halves(clipped_on_the_way),
    ),
    Fault(
        name="master weights from bfloat16",
        rung="trajectory float32",
        place="step 01/loss",
        seen="a checkpoint in half precision",
        around=trained(weights_rounded),
    ),
    of_leaf(
        name="class token a buffer",
        seen="register_buffer, or requires_grad=False, for a parameter",
        around=unclipped_and_still("cls_token"),
    ),
    of_leaf(
        name="positions a buffer",
        seen="sinusoids, which are not trained, for learned positions",
        around=unclipped_and_still("position_embedding"),
    ),
    of_leaf(
        name="class token not updated",
        seen="optax.set_to_zero for it after clipping, or a parameter group of rate 0",
        around=still("cls_token"),
    ),
    of_leaf(
        name="positions not updated",
        seen="optax.set_to_zero for it after clipping, or a parameter group of rate 0",
        around=still("position_embedding"),
    ),
    of_leaf(
        name="parameters in float32 between steps",
        seen="a state that is stored in float32",
        around=trained(narrow_between_steps),
        float32_inside=True,
    ),
    Fault(
        name="loss after the step",
        rung="trajectory",
        place="SGD, step 01/loss",
        seen="metrics of the updated state",
        around=trained(loss_afterwards),
    ),
)
