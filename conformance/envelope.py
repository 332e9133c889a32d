"""A float32 training run against an envelope: how far from the float64 losses the reference itself strays.

A ViT computes the same function when its features, its hidden units and its images are put in another order, but
rounds otherwise. So the reference is trained several times, reordered at random, and the spread of those runs says
how far a sound run may stray.
"""

import math

import numpy as np
from scipy import stats

from conformance import tolerances
from conformance.compare import Diff
from conformance.precision import rounded
from conformance.sides import TrainableSide
from conformance.training import PLAN, training_batches
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

STEPS, RERUNS = 20, 12
# Betas that float32 holds: optax forms 1 - beta**t in float32, PyTorch in float64, and with 0.999 that difference alone
# moves the losses ten times as far as all reordering (measured).
PLAN_32 = PLAN.replace(epochs=STEPS, warmup_epochs=2.0, momentum=1 - 2**-3, beta2=1 - 2**-11)


def compare_envelope(
    candidate: TrainableSide, reference: TrainableSide, config: ViTConfig, weights: Weights, images: np.ndarray
) -> tuple[Diff, ...]:
    """The loss of each step: its largest distance from float64 so far, against what reordering explains.

    The logarithm of that distance is taken for normal over the reorderings; the limit is the upper end of Student's
    prediction interval for one run more, at `tolerances.ENVELOPE_FALSE_ALARMS` for all steps together.
    """
    batches, labels = training_batches(images, config, STEPS)
    truth, _ = reference.train(rounded(weights, "float64"), batches, labels, PLAN_32)
    weights, narrow = rounded(weights, "float32"), batches.astype(np.float32)

    def strays(side: TrainableSide, weights: Weights, order: np.ndarray) -> np.ndarray:
        losses, _ = side.train(weights, narrow[:, order], labels[:, order], PLAN_32)
        rounding = tolerances.UNIT_ROUNDOFF["float32"] * np.abs(
            truth
        )  # of the loss itself: none can be asked to be nearer
        return np.maximum.accumulate(np.maximum(np.abs(losses.astype(np.float64) - truth), rounding))

    rng = np.random.default_rng(0)
    same = np.arange(len(images))
    reruns = np.log([strays(reference, reordered(weights, config, rng), rng.permutation(same)) for _ in range(RERUNS)])
    ours = strays(candidate, weights, same)
    quantile = stats.t.isf(tolerances.ENVELOPE_FALSE_ALARMS / STEPS, RERUNS - 1)
    reach = quantile * reruns.std(axis=0, ddof=1) * math.sqrt(1 + 1 / RERUNS)
    centre = reruns.mean(axis=0)
    return tuple(
        Diff(f"step {t + 1:02}/loss", "free", ours[t], math.exp(centre[t]), math.exp(centre[t] + reach[t]))
        for t in range(STEPS)
    )


def reordered(weights: Weights, config: ViTConfig, rng: np.random.Generator) -> Weights:
    """The same function of the image: token features and each layer's hidden units in another order."""
    sizes = {"token": config.hidden_dim, "patch": config.embed_dim or config.hidden_dim, "hidden": config.mlp_dim}
    orders: dict[str, np.ndarray] = {}

    def order(axis: str) -> np.ndarray:
        kind = axis.partition(" ")[0]
        return orders.setdefault(axis, rng.permutation(sizes[kind]))

    def leaf(name: str, value: np.ndarray) -> np.ndarray:
        for dimension, axis in enumerate(_axes(name, config)):
            value = value if axis is None else value.take(order(axis), axis=dimension)
        return value

    return {name: leaf(name, value) for name, value in weights.items()}


def _axes(name: str, config: ViTConfig) -> tuple[str | None, ...]:
    """Which order each dimension of a leaf is in; None: its own."""
    patch = "token" if config.embed_dim is None else "patch"
    parts = name.split("/")
    hidden = f"hidden {parts[1]}"
    match parts[-2:]:
        case ["conv", "kernel"]:
            return None, None, None, patch
        case ["conv", "bias"]:
            return (patch,)
        case ["embedding", _]:
            return None, None, "token"
        case ["query" | "key" | "value", "kernel"]:
            return "token", None
        case ["query" | "key" | "value", "bias"] | ["head", "bias"]:
            return (None,)
        case ["fc1", "kernel"]:
            return "token", hidden
        case ["fc1", "bias"]:
            return (hidden,)
        case ["fc2", "kernel"]:
            return hidden, "token"
        case ["projection", "kernel"]:
            return (patch if parts[0] == "embedding" else None), "token"
        case ["head", "kernel"]:
            return "token", None
    return ("token",)  # norms, and biases of what adds to the tokens
