"""Gradients of both sides: with respect to every tap as an input, and to every parameter, alone and free-running.

The upstream gradient is random: a mean of the logits would hide whatever its symmetries cancel.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from conformance.compare import MODES, Diff, Mode, in_data_order, measure, over_runs
from conformance.precision import DTYPES, rounded
from conformance.sides import Gradients, TrainableSide
from conformance.summands import uncancelled
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

# Outside float64, both sides run so many times, each time on inputs nudged to neighbouring numbers, and the root mean
# square of their errors is judged. The size of a rounding error is partly luck. Its logarithm strays from run to run by
# 0.25 on our side and 0.18 on the twin's (standard deviations over 32 runs: digits, bfloat16, gradient of the images).
# So the ratio of two single runs strays by e^0.3, and among some thousand seeds one exceeds 3; that of four runs to
# four strays by e^0.15, and 3 is seven such steps away (measured: 120 seeds, at most 1.8).
# Reordered sums are no further runs in bfloat16: they are accumulated in float32 and rounded to nearly the same numbers
# in any order (measured: four runs of one error, to two digits of it).
RUNS = 4


def compare_gradients(
    candidate: TrainableSide,
    reference: TrainableSide,
    config: ViTConfig,
    weights: Weights,
    images: np.ndarray,
    precision: str,
) -> tuple[Diff, ...]:
    """Every gradient, parameters first, each group from the logits back to the images.

    Alone, a block is fed the reference's input *and* the reference's gradient of its output. Outside float64 both
    sides run several times, and the root mean square of their errors is judged.
    """
    weights, images = rounded(weights, precision), rounded({"": images}, precision)[""]
    upstream = random_upstream((len(images), config.num_classes), precision)
    inputs = Inputs(weights, images, upstream)
    runs = [_one_run(candidate, reference, config, inputs, precision, np.random.default_rng(0))]
    while precision != "float64" and len(runs) < RUNS:
        rng = np.random.default_rng(len(runs))
        runs.append(_one_run(candidate, reference, config, inputs.nudged(rng), precision, rng))
    return tuple(over_runs(diffs) for diffs in zip(*runs, strict=True))


def random_upstream(shape: tuple[int, ...], precision: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(DTYPES[precision])


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a backward pass starts from: weights, images, and the gradient of the logits."""

    weights: Weights
    images: np.ndarray
    upstream: np.ndarray

    def nudged(self, rng: np.random.Generator) -> "Inputs":
        """Each number replaced by one of its two neighbours: nearly the same function, with other rounding errors."""
        weights = {name: nudged(leaf, rng) for name, leaf in self.weights.items()}
        return Inputs(weights, nudged(self.images, rng), nudged(self.upstream, rng))


def nudged(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every entry moved to the next number above or below, at random."""
    towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf)
    return np.nextafter(array, towards.astype(array.dtype))


def _one_run(
    candidate: TrainableSide,
    reference: TrainableSide,
    config: ViTConfig,
    inputs: Inputs,
    precision: str,
    rng: np.random.Generator,
) -> list[Diff]:
    """Both sides once, free and alone, each tap and leaf judged against the reference in float64."""
    weights, images, upstream = inputs.weights, inputs.images, {"logits": inputs.upstream}
    theirs = reference.gradients(weights, images, upstream)
    taps = reference.taps(weights, images)
    arriving = {tap: theirs.inputs[tap] for tap in taps}
    ours = {
        "free": candidate.gradients(weights, images, upstream),
        "alone": candidate.gradients(weights, images, arriving, given=taps),
    }
    truth = {"free": theirs, "alone": theirs}
    summands = theirs.parameters
    if precision != "float64":
        wide, wide_images, wide_upstream, wide_taps, wide_arriving = (
            rounded(arrays, "float64") for arrays in (weights, {"": images}, upstream, taps, arriving)
        )
        truth["free"] = reference.gradients(wide, wide_images[""], wide_upstream)
        truth["alone"] = reference.gradients(wide, wide_images[""], wide_arriving, given=wide_taps)
        summands = uncancelled(reference, config, wide, wide_images[""], wide_taps, wide_arriving, rng)
    tokens = len(images) * (config.num_patches + 1)  # that a parameter's gradient sums over
    features = max(3 * config.hidden_dim, config.mlp_dim)  # ... and an input's
    diffs: list[Diff] = []
    for mode in MODES:
        run = Run(mode, precision, ours[mode], theirs, truth[mode], summands)
        diffs += [*run.parameters(tokens), *run.inputs(features)]
    return diffs


@dataclasses.dataclass(frozen=True)
class Run:
    """The gradients of one run: both sides', the truth, and how large those of parameters are if no terms cancel."""

    mode: Mode
    precision: str
    ours: Gradients
    theirs: Gradients
    truth: Gradients
    summands: Weights

    def inputs(self, terms: int) -> list[Diff]:
        # The logits' own is the upstream gradient itself.
        names = ["images", *(tap for tap in self.theirs.inputs if tap not in ("images", "logits"))]
        return [self._judged(name, lambda side: side.inputs.get(name), terms) for name in reversed(names)]  # noqa: B023

    def parameters(self, terms: int) -> list[Diff]:
        return [self._parameter(name, terms) for name in reversed(in_data_order(self.theirs.parameters))]

    def _parameter(self, name: str, terms: int) -> Diff:
        # Softmax does not see a bias of the keys: its gradient is zero, up to rounding of what its kernel's is made of.
        # Of rounding errors alone no ratio can be formed, so outside float64 it is judged with its kernel.
        kernel = name.replace("/key/bias", "/key/kernel")
        joined = (name,) if self.precision == "float64" or name == kernel else (name, kernel)
        beside = self.truth.parameters[kernel].reshape(-1)
        accumulates = "float32" if self.precision == "float64" else self.precision
        summands = self._row(self.summands, joined)
        return self._judged(name, lambda side: self._row(side.parameters, joined), terms, beside, accumulates, summands)

    def _row(self, parameters: Weights, names: tuple[str, ...]) -> np.ndarray | None:
        """Leaves as one row, as a parameter's error is taken over all of it; one that is wrong, as it is."""
        leaves = [parameters.get(name) for name in names]
        for name, leaf in zip(names, leaves, strict=True):
            if leaf is None or leaf.shape != self.theirs.parameters[name].shape:
                return leaf
        return np.concatenate([leaf.reshape(-1) for leaf in leaves if leaf is not None])

    def _judged(
        self,
        name: str,
        of: Callable[[Gradients], np.ndarray | None],
        terms: int,
        beside: np.ndarray | None = None,
        accumulates: str = "float32",
        summands: np.ndarray | None = None,
    ) -> Diff:
        ours, theirs, truth = of(self.ours), of(self.theirs), of(self.truth)
        return measure(name, self.mode, ours, theirs, truth, self.precision, terms, beside, accumulates, summands)
