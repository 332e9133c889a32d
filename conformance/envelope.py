"""A float32 training run: its first gradient, and its losses against an envelope, how far the reference itself strays.

The reference is trained several times, its features, hidden units and images reordered at random, and the spread of
those runs says how far a sound run may stray.
"""

import math

import numpy as np

from conformance import tolerances
from conformance.compare import Diff, measure
from conformance.precision import rounded
from conformance.reorder import Reordering
from conformance.sides import TrainableSide
from conformance.training import PLAIN, PLAN, half_clipped, training_batches
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

STEPS, RERUNS = 20, 12
# Betas that float32 holds: optax forms 1 - beta**t in float32, PyTorch in float64, and with 0.999 that difference alone
# moves the losses ten times as far as all reordering (measured).
PLAN_32 = PLAN.replace(epochs=STEPS, warmup_epochs=2.0, momentum=1 - 2**-3, beta2=1 - 2**-11)
# At such a rate a step is the gradient, but for a power of two: the weights it is added to are less than its rounding.
STEEP = PLAIN.replace(learning_rate=2.0**30)


def compare_envelope(
    candidate: TrainableSide, reference: TrainableSide, config: ViTConfig, weights: Weights, images: np.ndarray
) -> tuple[Diff, ...]:
    """The loss of each step: its largest relative distance from float64 so far, against what reordering explains.

    The logarithm of that distance is taken for normal over the reorderings; the limit is the upper end of Student's
    prediction interval for one run more, at `tolerances.ENVELOPE_FALSE_ALARMS` for all steps together.

    And the first step's gradient, all of it as one row, against the reference's rounding: Adam's steps hardly show it.
    """
    batches, labels = training_batches(images, config, STEPS)
    wide = rounded(weights, "float64")
    plan = half_clipped(PLAN_32, reference, wide, batches, labels)
    truth, _ = reference.train(wide, batches, labels, plan)
    weights, narrow = rounded(weights, "float32"), batches.astype(np.float32)

    def strays(side: TrainableSide, weights: Weights, order: np.ndarray) -> np.ndarray:
        losses, _ = side.train(weights, narrow[:, order], labels[:, order], plan)
        return np.maximum.accumulate(np.abs(losses.astype(np.float64) / truth - 1))

    rng = np.random.default_rng(0)
    same = np.arange(len(images))
    others = [(Reordering(config, rng).weights(weights), rng.permutation(same)) for _ in range(RERUNS)]
    unit = tolerances.UNIT_ROUNDOFF["float32"]  # nearer than that is luck
    reruns = np.log([np.maximum(strays(reference, *other), unit) for other in others])
    ours = strays(candidate, weights, same)
    level = tolerances.ENVELOPE_FALSE_ALARMS / STEPS
    reach = tolerances.prediction_reach(reruns.std(axis=0, ddof=1), RERUNS, 1, level)
    centre = reruns.mean(axis=0)
    floor = tolerances.loss_rounding(truth, config.num_classes, plan.label_smoothing)
    limits = np.maximum(np.exp(centre + reach), floor)
    first, *later = (
        Diff(f"step {t + 1:02}/loss", "free", float(ours[t]), math.exp(centre[t]), float(limits[t]))
        for t in range(STEPS)
    )
    return first, _first_gradient(candidate, reference, config, weights, narrow, labels), *later


def _first_gradient(
    candidate: TrainableSide,
    reference: TrainableSide,
    config: ViTConfig,
    weights: Weights,
    batches: np.ndarray,
    labels: np.ndarray,
) -> Diff:
    def of(side: TrainableSide, dtype: type[np.floating]) -> np.ndarray:
        before = {leaf: value.astype(dtype) for leaf, value in weights.items()}
        _, [after] = side.train(before, batches[:1].astype(dtype), labels[:1], STEEP)
        # A leaf that one side lacks makes its row shorter, and `measure` says so.
        return np.concatenate([(after[leaf] / -STEEP.learning_rate).reshape(-1) for leaf in before if leaf in after])

    ours, theirs, truth = of(candidate, np.float32), of(reference, np.float32), of(reference, np.float64)
    tokens = batches.shape[1] * (config.num_patches + 1)  # that a parameter's gradient sums over
    # All leaves as one row: of so many numbers an error is hardly luck (1,000 seeds on each of four small models: at
    # most 0.67 of the limit).
    return measure("step 01/gradient", "free", ours, theirs, truth, "float32", tokens)
