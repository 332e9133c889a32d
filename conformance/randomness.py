"""Dropout and stochastic depth: compared exactly under the same masks, and by statistics under a side's own.

Rates that a config has as zero are raised, so that every draw of the model is made.
"""

import math

import numpy as np
from scipy import stats

from conformance import tolerances
from conformance.compare import Diff, differ
from conformance.gradients import random_upstream
from conformance.sides import Masks, Taps, TrainableSide
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

RATE = 0.1
SEEDS = 4
STATISTICS = 7  # of a tap, at most


def noisy(config: ViTConfig) -> ViTConfig:
    """The same ViT with every kind of draw in it."""
    return config.replace(
        dropout=config.dropout or RATE,
        attention_dropout=config.attention_dropout or RATE,
        drop_path=config.drop_path or RATE,
    )


def compare_masked(
    candidate: TrainableSide, reference: TrainableSide, weights: Weights, images: np.ndarray
) -> tuple[Diff, ...]:
    """Nothing drawn in evaluation; what is drawn in training, in order; and then, under the same draws, every tap, what
    is drawn for the gradient, and every parameter's. All in float64.
    """
    evaluated = _evaluated(candidate.taps(weights, images), reference.taps(weights, images))
    if not all(diff.passes for diff in evaluated):
        return evaluated  # what is kept in training is told by what is there in evaluation
    our_masks, masks = Masks(seed=1), Masks(seed=1)
    ours, theirs = candidate.taps(weights, images, draw=our_masks), reference.taps(weights, images, draw=masks)
    draws = _same_draws("draw", our_masks, masks)
    if not all(draw.passes for draw in draws):
        return tuple(draws)  # under other masks nothing after them can agree
    forward = (*evaluated, *draws, *(differ(tap, "free", ours[tap], value) for tap, value in theirs.items()))
    upstream = {"logits": random_upstream(theirs["logits"].shape, "float64")}
    our_masks, masks = Masks(seed=1), Masks(seed=1)
    grads = candidate.gradients(weights, images, upstream, draw=our_masks).parameters
    their_grads = reference.gradients(weights, images, upstream, draw=masks).parameters
    again = _same_draws("the gradient's draw", our_masks, masks)
    if len(again) > len(draws):
        return *forward, *again  # what is computed again, under other masks than the loss, is the gradient of neither
    seen = [name for name in their_grads if _is_seen(name)]
    return *forward, *again, *(differ(f"gradient of {name}", "free", grads[name], their_grads[name]) for name in seen)


def _evaluated(ours: Taps, theirs: Taps) -> tuple[Diff, ...]:
    """Each tap without draws: a side whose rates are not zero must not heed them."""
    diffs = []
    for tap, value in theirs.items():
        name = f"in evaluation, {tap}"
        if tap not in ours or ours[tap].shape != value.shape:
            found = ours[tap].shape if tap in ours else "none"
            diffs.append(Diff(name, "free", np.inf, None, 0.0, f"shape {found}, expected {value.shape}"))
        elif ((ours[tap] == 0) & (value != 0)).any():
            diffs.append(Diff(name, "free", np.inf, None, 0.0, "drops at evaluation: entries are zero that are not"))
        else:
            diffs.append(differ(name, "free", ours[tap], value))
    return tuple(diffs)


def _is_seen(name: str) -> bool:
    return not name.endswith("key/bias")  # softmax does not see it: its gradient is rounding alone


def _same_draws(name: str, ours: Masks, theirs: Masks) -> list[Diff]:
    count = max(len(ours.asked), len(theirs.asked))
    return [_same_draw(f"{name} {n:02}", n, ours, theirs) for n in range(count)]


def _same_draw(name: str, n: int, ours: Masks, theirs: Masks) -> Diff:
    for side, masks in (("candidate", ours), ("reference", theirs)):
        if n >= len(masks.asked):
            return Diff(name, "alone", np.inf, None, 0.0, f"the {side} draws no more")
    asked, expected = ours.asked[n], theirs.asked[n]
    if asked[0] != expected[0]:
        return Diff(name, "alone", np.inf, None, 0.0, f"a mask of shape {asked[0]}, expected {expected[0]}")
    return differ(name, "alone", np.array([asked[1]]), np.array([expected[1]]))


def compare_draws(
    candidate: TrainableSide, reference: TrainableSide, config: ViTConfig, weights: Weights, images: np.ndarray
) -> tuple[Diff, ...]:
    """Under its own draws, what a side keeps at each tap: how often, scaled by how much, and how independently.

    An error is the difference of the two sides' statistics in standard deviations, a limit the value it exceeds at
    `tolerances.FALSE_ALARMS` over all of them together.
    """
    still = candidate.taps(weights, images)["embedding"]
    ours, theirs = (
        [side.drawn(weights, images, seed) for seed in range(start, start + SEEDS)]
        for side, start in ((candidate, 0), (reference, SEEDS))
    )
    taps = ["embedding", *(f"encoder/{i:02}/{part}" for i in range(config.num_layers) for part in ("attention", "mlp"))]
    above = dict(zip(taps[1:], taps[3:], strict=False))  # the same part of the next layer
    limit = float(stats.norm.isf(tolerances.FALSE_ALARMS / (STATISTICS * len(taps)) / 2))
    scales = (np.array([_scale(run["embedding"], still) for run in runs]) for runs in (ours, theirs))
    diffs = [differ("embedding, scale of what is kept", "free", *scales)]
    for tap in taps:
        kept = [_kept(runs, tap) for runs in (ours, theirs)]
        diffs.append(Diff(f"{tap}, share kept", "free", apart(*kept), None, limit))
        for axis, name in enumerate(("seed", "image", "token", "feature")):
            fates = [alike(k, axis) for k in kept]
            diffs.append(Diff(f"{tap}, alike along {name}", "free", apart(*fates), None, limit))
        if tap in above:
            fates = [k == _kept(runs, above[tap]) for k, runs in zip(kept, (ours, theirs), strict=True)]
            diffs.append(Diff(f"{tap}, alike with the layer above", "free", apart(*fates), None, limit))
    had_before = [_had_before(runs, taps) for runs in (ours, theirs)]
    diffs.append(Diff("images with a mask had before", "free", apart(*had_before), None, limit))
    return tuple(diffs)


def _had_before(runs: list[Taps], taps: list[str]) -> np.ndarray:
    """Of each seed, tap and image (1, seed, tap, image), whether what it keeps has been kept by another.

    Whatever keeps all or nothing is none of these, as where a layer is dropped whole.
    """
    known: set[tuple[tuple[int, ...], bytes]] = set()
    hits = []
    for run in runs:
        for tap in taps:
            for kept in run[tap] != 0:
                mask = kept.shape, kept.tobytes()
                hits.append(mask in known and kept.any() and not kept.all())
                known.add(mask)
    return np.array(hits).reshape(1, len(runs), len(taps), -1)


def _kept(runs: list[Taps], tap: str) -> np.ndarray:
    return np.stack([run[tap] for run in runs]) != 0


def _scale(dropped: np.ndarray, still: np.ndarray) -> float:
    """By how much what is kept is larger; 0 where nothing is."""
    kept = (dropped != 0) & (still != 0)
    return 0.0 if not kept.any() else float(np.median(dropped[kept] / still[kept]))


def alike(kept: np.ndarray, axis: int) -> np.ndarray:
    """Where neighbours along an axis share their fate."""
    pairs = kept.shape[axis] // 2
    first, second = (np.take(kept, range(start, 2 * pairs, 2), axis) for start in (0, 1))
    return first == second


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The difference of two shares, in standard deviations."""
    (p, variance), (q, other) = _share(a), _share(b)
    if p == q:
        return 0.0
    return abs(p - q) / math.sqrt(variance + other) if variance + other else math.inf


def _share(hits: np.ndarray) -> tuple[float, float]:
    """How many of (run, image, token, feature) are true, and the variance of that.

    What shares its fate along one of the axes is one draw, not many: the variance is that of the means over an axis, of
    whichever leaves the fewest.
    """
    means = [hits.mean(axis=axis) for axis in range(1, hits.ndim)]
    return float(hits.mean()), max(float(mean.var() / mean.size) for mean in means)
