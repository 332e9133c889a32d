"""Faults around the training step: its draws, the running average, evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from conformance.faults import Anew, Around, Edit, Fault, edited, recipe_changed
from conformance.rounding import to_bfloat16
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe
from vit_flax.weights import Weights

# Draws from step to step: around `noisy_losses(weights, images, labels, seed, recipe)`.


def noise(change: Callable[..., np.ndarray]) -> dict[str, Around]:
    return {"noisy_losses": lambda method, config, *arguments: change(method, config, *arguments)}


def one_key_for_all_steps(method: Around, config: ViTConfig, *arguments: Any) -> np.ndarray:
    losses = method(*arguments)
    return np.full_like(losses, losses[0])


def one_key_for_all_runs(
    method: Around, config: ViTConfig, weights: Weights, images: Any, labels: Any, seed: int, recipe: Recipe
) -> np.ndarray:
    return method(weights, images, labels, 0, recipe)


# The running average: around `averages(weights, images, labels, recipe)`.


def averaging(
    decay: Callable[[int, float], float],
    start: Callable[[np.ndarray], np.ndarray] = np.copy,
    late: int = 0,
    kept: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda average, now: average,
) -> dict[str, Around]:
    """An average of its own: `decay(step, the recipe's)` for steps from 1; `late` steps behind the weights.

    `kept(average, now)` is what a leaf's average is kept as.
    """

    def around(method: Around, config: ViTConfig, weights: Weights, images: Any, labels: Any, recipe: Recipe) -> Any:
        after = method(weights, images, labels, recipe.replace(ema_decay=None))
        if recipe.ema_decay is None:  # as another fault may have it
            return after
        course = [weights] * late + after
        average = {leaf: start(value) for leaf, value in weights.items()}
        averages = []
        for step in range(1, len(after) + 1):
            d, now = decay(step, recipe.ema_decay), course[step - 1]
            average = {leaf: kept(d * average[leaf] + (1 - d) * now[leaf], now[leaf]) for leaf in now}
            averages.append(average)
        return averages

    return {"averages": around}


def growing(step: int, decay: float) -> float:
    return min(decay, (1 + step) / (10 + step))


# Evaluation: around `evaluate(weights, images, labels, recipe)`.


def evaluated(change: Callable[..., float]) -> dict[str, Around]:
    return {"evaluate": lambda method, config, *arguments: change(method, *arguments)}


def mean_of_batches(method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
    size = recipe.batch_size
    starts = range(0, len(images), size)
    shares = [method(weights, images[i : i + size], labels[i : i + size], recipe) for i in starts]
    return float(np.mean(shares))


def last_forgotten(method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
    whole = len(images) - len(images) % recipe.batch_size
    return method(weights, images[:whole], labels[:whole], recipe)


def padding_counted(method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
    """The last batch filled up with the first images, which count again."""
    rows = np.arange(-(-len(images) // recipe.batch_size) * recipe.batch_size) % len(images)
    return method(weights, images[rows], labels[rows], recipe)


def by_first_weights() -> Around:
    """Whatever weights are given later."""
    kept: list[Weights] = []

    def around(method: Around, config: ViTConfig, weights: Weights, *arguments: Any) -> float:
        kept.append(weights)
        return method(kept[0], *arguments)

    return around


def drop_head_features(weights: Weights, config: ViTConfig) -> Weights:
    """What dropout before the head does to all images, under one mask."""
    kernel = weights["head/kernel"]
    kept = np.random.default_rng(0).random((len(kernel), 1)) < 1 - config.dropout
    return weights | {"head/kernel": (kernel * kept / (1 - config.dropout)).astype(kernel.dtype)}


def only(capability: str, edit: Edit) -> dict[str, Around]:
    return {capability: edited(edit)[capability]}


of_noise = partial(Fault, rung="noise")
of_average = partial(Fault, rung="average", place="average after step 1")
of_evaluation = partial(Fault, rung="evaluation")

LOOPS = (
    # Draws from step to step
    of_noise(
        name="no dropout in the training step",
        place="steps without a draw",
        seen="model.eval() left on",
        around=recipe_changed("noisy_losses", dropout=0.0, drop_path=0.0),
    ),
    of_noise(
        name="one dropout key for all steps",
        place="steps with a draw had before",
        seen="a key that was not folded with the step",
        around=noise(one_key_for_all_steps),
    ),
    of_noise(
        name="one dropout key for all runs",
        place="steps that another seed changes",
        seen="PRNGKey(0) in the step",
        around=noise(one_key_for_all_runs),
    ),
    # Running average
    of_average(
        name="average never used",
        seen="the raw weights evaluated",
        around=recipe_changed("averages", ema_decay=None),
    ),
    of_average(
        name="average long from the start",
        seen="a constant decay, as in timm's ModelEmaV2",
        around=averaging(lambda step, decay: decay),
    ),
    of_average(
        name="average's steps counted from zero",
        seen="counted before the update",
        around=averaging(lambda step, decay: growing(step - 1, decay)),
    ),
    of_average(
        name="average begun at the first step",
        seen="EMAModel of diffusers: a decay of 0, then of the step before",
        around=averaging(lambda step, decay: growing(step - 1, decay) if step > 1 else 0.0),
    ),
    of_average(
        name="average as Mean Teacher's",
        seen="min(1 - 1 / (step + 1), decay), of arXiv:1703.01780's code",
        around=averaging(lambda step, decay: min(1 - 1 / (step + 1), decay)),
    ),
    of_average(
        name="average a step behind",
        seen="averaged before the update",
        around=averaging(growing, late=1),
    ),
    of_average(
        name="average from zero",
        seen="zeros_like, without bias correction",
        around=averaging(growing, start=np.zeros_like),
    ),
    of_average(
        name="average's decay for its rest",
        seen="decay for 1 - decay, as in a momentum",
        around=averaging(lambda step, decay: 1 - growing(step, decay)),
    ),
    of_average(
        name="vectors not averaged",
        seen="a mask of ndim > 1, meant for weight decay",
        around=averaging(growing, kept=lambda average, now: average if now.ndim > 1 else now),
    ),
    of_average(
        name="average kept in bfloat16",
        seen="averaged over parameters that were cast, or stored so to save memory",
        around=averaging(growing, kept=lambda average, now: to_bfloat16(average)),
    ),
    # Evaluation
    # Where a near tie counts as wrong, the labels that are right show them first.
    of_evaluation(
        name="evaluated by the first weights",
        place="accuracy, of other weights",
        seen="a compiled function that holds the parameters as constants",
        around={"evaluate": Anew(by_first_weights)},
    ),
    of_evaluation(
        name="evaluation a mean of batches",
        place="accuracy, *",
        seen="a smaller last batch counted as a full one",
        around=evaluated(mean_of_batches),
    ),
    of_evaluation(
        name="the last batch not evaluated",
        place="accuracy, *",
        seen="drop_last=True for every loader",
        around=evaluated(last_forgotten),
    ),
    of_evaluation(
        name="padding counted in evaluation",
        place="accuracy, *",
        seen="a batch filled up, and no mask",
        around=evaluated(padding_counted),
    ),
    of_evaluation(
        name="dropout in evaluation",
        place="accuracy, every label right",
        seen="model.eval() forgotten",
        around=only("evaluate", drop_head_features),
    ),
    of_evaluation(
        name="evaluated under ImageNet's statistics",
        place="accuracy, every label right",
        seen="two transforms, one changed",
        around=recipe_changed("evaluate", means=lambda r: (0.485, 0.456, 0.406)[: len(r.means)]),
    ),
)
