"""What training is made of, each rule alone: loss, metric, clipping, schedule, optimizer; and then whole steps."""

import dataclasses
import itertools
from typing import Any

import numpy as np

from conformance.compare import Diff, differ, in_data_order, measure
from conformance.precision import rounded, rounded_array
from conformance.sides import TrainableSide
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe, recipe
from vit_flax.weights import Weights

# Every rule at once, counted in steps. The rate is one at which rounding does not grow: from weights of order one,
# ten times as much carries a float64 difference of 1e-15 to 5e-8 of the loss in 60 steps (measured; at this one, 3e-13
# of a parameter at most, on four models).
STEPS, WARMUP = 60, 10
PLAN = recipe("article").replace(
    epochs=STEPS,
    optimizer="adamw",
    learning_rate=1e-4,
    schedule="cosine",
    warmup_epochs=float(WARMUP),
    weight_decay=0.1,
    clip_norm=1.0,
    label_smoothing=0.1,
)
# Adam divides a constant factor of the gradient out again, and clipping hides it: a step of this is the rate times the
# gradient. At so low a rate also a gradient of 1,000 times the size takes small steps.
PLAIN = PLAN.replace(
    optimizer="sgd",
    momentum=0.0,
    learning_rate=1e-5,
    schedule="constant",
    warmup_epochs=0.0,
    weight_decay=0.0,
    clip_norm=None,
)
# From this rate gradients get shorter over 60 steps about as they do under PLAN (measured on three models: median norms
# of 4.7 to 17 for 4.2 to 17), so that their median clips about half of PLAN's steps.
FALLING = PLAIN.replace(learning_rate=1e-3)
# The first step is as plain; from the second on, momentum has gradients that came at a higher rate.
SGD_STEPS = 5
SGD = PLAIN.replace(momentum=0.9, schedule="cosine", epochs=SGD_STEPS)
OPTIMIZERS = {
    "adam": PLAN.replace(optimizer="adam", weight_decay=0.0, learning_rate=0.01),
    "adamw": PLAN.replace(learning_rate=0.01),
    "sgd": PLAN.replace(optimizer="sgd", weight_decay=0.0, learning_rate=0.01),
}
UPDATES = 3


def compare_loss(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> tuple[Diff, ...]:
    """Value and gradient, with and without label smoothing and padding, and of logits a thousand apart.

    Those would reach a bound for probabilities, and their exponentials are infinite. In float64 alone: the loss of few
    images outweighs the others', and its rounding in float32 would be a matter of luck.
    """
    logits, labels, padded = _answers(config)
    whole, wide = np.ones_like(padded), 128 * logits
    diffs = []
    for smoothing in (0.0, 0.1):
        for name, logits_, mask, precisions in (
            ("whole batch", logits, whole, ("float64", "float32")),
            ("padded batch", logits, padded, ("float64", "float32")),
            ("logits far apart", wide, whole, ("float64",)),
        ):
            plan = PLAN.replace(label_smoothing=smoothing)
            for precision in precisions:
                z, m = rounded_array(logits_, precision), rounded_array(mask, precision)
                ours, theirs = (side.loss(z, labels, m, plan) for side in (candidate, reference))
                truth = reference.loss(z.astype(np.float64), labels, mask, plan)
                for part, ours_, theirs_, truth_ in zip(("loss", "gradient"), ours, theirs, truth, strict=True):
                    what = f"{part}, smoothing {smoothing:g}, {name}, {precision}"
                    a, b, c = (np.atleast_1d(x) for x in (ours_, theirs_, truth_))
                    diffs.append(measure(what, "alone", a, b, c, precision, config.num_classes))
    return tuple(diffs)


def compare_narrow_loss(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> tuple[Diff, ...]:
    """Of bfloat16 logits: a loss as good as float32's, and a gradient as good as bfloat16's.

    Each image alone: rounding errors of a mean cancel, by more or less luck.
    """
    logits, labels, _ = _answers(config)
    narrow = rounded_array(logits, "bfloat16")
    diffs = []
    for smoothing in (0.0, 0.1):
        plan = PLAN.replace(label_smoothing=smoothing)
        ours, theirs = (_image_by_image(side, narrow, labels, np.float32, plan) for side in (candidate, reference))
        truth = _image_by_image(reference, narrow.astype(np.float64), labels, np.float64, plan)
        for i, (part, precision) in enumerate((("loss", "float32"), ("gradient", "bfloat16"))):
            what = f"{part}, smoothing {smoothing:g}, image by image"
            diffs.append(measure(what, "alone", ours[i], theirs[i], truth[i], precision, config.num_classes))
    return tuple(diffs)


def _image_by_image(
    side: TrainableSide, logits: np.ndarray, labels: np.ndarray, dtype: type[np.floating], plan: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and gradient of each, as those of a batch in which no other counts."""
    answers = [side.loss(logits, labels, mask, plan) for mask in np.eye(len(labels), dtype=dtype)]
    return np.stack([value for value, _ in answers]), np.stack([gradient for _, gradient in answers])


def compare_metric(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> tuple[Diff, ...]:
    """Accuracy: the same share, with and without padding, and of logits that are all alike: the first class is named.

    In half precision ties are common, and where a tie with the label's counts as right, a dead model is perfect. Logits
    that are nearly alike, or all large, have an order too, though their probabilities have none, or their sigmoids.
    """
    logits, labels, padded = _answers(config)
    whole = np.ones_like(padded)
    batches = {
        "whole batch": (logits, whole),
        "padded batch": (logits, padded),
        "every class alike": (np.zeros_like(logits), whole),
        "every class nearly alike": (logits * 2.0**-60, whole),
        "every logit large": (logits + 2.0**10, whole),
    }
    diffs = []
    for name, (logits, mask) in batches.items():
        ours, theirs = (_number(side.accuracy(logits, labels, mask)) for side in (candidate, reference))
        diffs.append(differ(f"accuracy, {name}", "alone", ours, theirs))
    return tuple(diffs)


def compare_clipping(candidate: TrainableSide, reference: TrainableSide, weights: Weights) -> tuple[Diff, ...]:
    """A gradient longer than allowed, and one of half the length allowed."""
    plan = PLAN.replace(clip_norm=1.0)
    lopsided = _lopsided(weights)
    norm = np.sqrt(sum((g**2).sum() for g in lopsided.values()))
    short = {leaf: g * (0.5 / norm) for leaf, g in lopsided.items()}
    diffs = []
    for name, gradients in (("too long", lopsided), ("short enough", short)):
        ours, theirs = candidate.clip(gradients, plan), reference.clip(gradients, plan)
        diffs += [differ(f"{name}: {leaf}", "alone", ours[leaf], theirs[leaf]) for leaf in in_data_order(theirs)]
    return tuple(diffs)


def _lopsided(weights: Weights) -> Weights:
    """Leaves far above a norm of 1, with entries up to 5, and far below: pairs of bias and kernel, large by turns.

    So no two rules agree on it: one norm for all leaves, for each block of them or for each leaf, for kernels only or
    for all but kernels, a bound for each entry, or none. Every layer has kernels and biases of both sizes.
    """
    gradients = _random_like(weights, 0)
    for turn, leaf in enumerate(in_data_order(gradients)):
        largest = (5.0, 1e-3, 1e-3, 5.0)[turn % 4]
        gradients[leaf] *= largest / np.abs(gradients[leaf]).max()
    return gradients


def compare_schedule(candidate: TrainableSide, reference: TrainableSide) -> tuple[Diff, ...]:
    """The rate of every step, relative to the highest."""
    diffs = []
    long = PLAN.replace(epochs=1000, warmup_epochs=100.0)  # more steps than half precision counts
    halves = [PLAN.replace(warmup_epochs=steps) for steps in (2.5, 3.5)]  # Python rounds them to 2 and 4
    for plan in (PLAN, PLAN.replace(warmup_epochs=0.0), PLAN.replace(schedule="constant"), *halves, long):
        name = f"{plan.schedule}, {plan.warmup_epochs:g} of {plan.epochs} steps to warm up"
        diffs.append(differ(name, "alone", candidate.rates(plan), reference.rates(plan)))
    return tuple(diffs)


def compare_optimizers(candidate: TrainableSide, reference: TrainableSide, weights: Weights) -> tuple[Diff, ...]:
    """How far each leaf has moved after each of some updates, at a constant rate and without clipping."""
    weights = rounded(weights, "float64")
    diffs = []
    for name, plan in OPTIMIZERS.items():
        ours, theirs = (_moves(side, weights, plan) for side in (candidate, reference))
        diffs += [differ(f"{name}: {leaf}", "alone", ours[leaf], theirs[leaf]) for leaf in in_data_order(weights)]
    return tuple(diffs)


def _moves(side: TrainableSide, weights: Weights, plan: Recipe) -> Weights:
    state: Any = None
    now, moves = weights, []
    for update in range(UPDATES):
        now, state = side.update(now, _random_like(weights, 1 + update), state, plan)
        moves.append({leaf: now[leaf] - weights[leaf] for leaf in weights})
    return {leaf: np.stack([move[leaf] for move in moves]) for leaf in weights}


def compare_trajectory(
    candidate: TrainableSide, reference: TrainableSide, config: ViTConfig, weights: Weights, images: np.ndarray
) -> tuple[Diff, ...]:
    """Whole training steps from the same weights on the same batches: loss and every parameter after each.

    A few of SGD alone show the gradient's scale; the others are of every rule at once, about half of them clipped.
    """
    weights, (batches, labels) = rounded(weights, "float64"), training_batches(images, config, STEPS)
    first = slice(SGD_STEPS)
    ours, theirs = (side.train(weights, batches[first], labels[first], SGD) for side in (candidate, reference))
    diffs = _steps_apart("SGD, ", ours, theirs, SGD_STEPS)
    if not all(diff.passes for diff in diffs):
        return tuple(diffs)  # more rules would only hide what these say
    plan = half_clipped(PLAN, reference, weights, batches, labels)
    ours, theirs = (side.train(weights, batches, labels, plan) for side in (candidate, reference))
    return *diffs, *_steps_apart("", ours, theirs, STEPS)


Course = tuple[np.ndarray, list[Weights]]  # the loss before each step, and the weights after it


def _steps_apart(name: str, ours: Course, theirs: Course, steps: int) -> list[Diff]:
    diffs = []
    for step in range(steps):
        losses = (_number(course[0][step]) for course in (ours, theirs))
        diffs.append(differ(f"{name}step {step + 1:02}/loss", "free", *losses))
        leaves = [differ(leaf, "free", ours[1][step][leaf], value) for leaf, value in theirs[1][step].items()]
        worst = max(leaves, key=lambda diff: diff.severity)
        diffs.append(dataclasses.replace(worst, tap=f"{name}step {step + 1:02}/parameters"))
    return diffs


def half_clipped(
    plan: Recipe, reference: TrainableSide, weights: Weights, batches: np.ndarray, labels: np.ndarray
) -> Recipe:
    """The plan with a norm to clip at that about half of its steps reach: the median of the reference's own, unclipped.

    Of those that are finite, as a reference with a fault in it may run away; and to two digits, as a recipe is compiled
    for, and replays that differ a little should not need another. Adam's epsilon grows with the norm: some gradients
    are zero but for rounding (of key biases, whose effect softmax cancels), and Adam would blow that up (measured: a
    float64 error of 4.4e-12 for the article's model).
    """
    _, after = reference.train(weights, batches, labels, FALLING)
    norms = []
    for before, now in itertools.pairwise([weights, *after]):
        moved = np.sqrt(sum(float(((before[leaf] - now[leaf]) ** 2).sum()) for leaf in now))
        norms.append(moved / FALLING.learning_rate)
    norm = float(f"{np.median([norm for norm in norms if np.isfinite(norm)]):.2g}")
    return plan.replace(clip_norm=norm, epsilon=plan.epsilon * norm)


def training_batches(images: np.ndarray, config: ViTConfig, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch and random labels for each step: the photographs, each time under other noise; float64."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((steps, *images.shape))
    return images.astype(np.float64) + 0.1 * noise, rng.integers(0, config.num_classes, (steps, len(images)))


def _answers(config: ViTConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of 32 images, labels of which about half are right, and a mask for 27 of them."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((32, config.num_classes))
    labels = np.where(rng.random(32) < 0.5, logits.argmax(axis=-1), rng.integers(0, config.num_classes, 32))
    return logits, labels, (np.arange(32) < 27).astype(np.float64)


def _random_like(weights: Weights, seed: int) -> Weights:
    """Entries from 1e-9 to 1: Adam's epsilon is seen by the smallest of them."""
    rng = np.random.default_rng(seed)
    return {
        leaf: rng.standard_normal(value.shape) * 10 ** rng.uniform(-9, 0, value.shape)
        for leaf, value in weights.items()
    }


def _number(value: Any) -> np.ndarray:
    return np.atleast_1d(np.float64(value))
