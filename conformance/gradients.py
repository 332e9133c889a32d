"""Gradients of both sides: with respect to every tap as an input, and to every parameter, alone and free-running.

The upstream gradient is random: a mean of the logits would hide whatever its symmetries cancel.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from conformance.compare import MODES, Diff, Mode, in_data_order, measure
from conformance.precision import DTYPES, rounded
from conformance.reorder import Reordering
from conformance.sides import Gradients, TrainableSide
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

# Further runs of the reference, its features reordered: where softmax is nearly certain, the gradients of queries and
# keys are what is left after cancellation, and a single run's error there may be small by luck (measured: 2 in 1000
# sound models off by more than the limit with one run, see tests/slow/test_false_alarms.py).
RERUNS = 3


def compare_gradients(
    candidate: TrainableSide,
    reference: TrainableSide,
    config: ViTConfig,
    weights: Weights,
    images: np.ndarray,
    precision: str,
) -> tuple[Diff, ...]:
    """Every gradient, parameters first, each group from the logits back to the images.

    Alone, a block is fed the reference's input *and* the reference's gradient of its output.
    """
    weights, images = rounded(weights, precision), rounded({"": images}, precision)[""]
    upstream = {"logits": random_upstream((len(images), config.num_classes), precision)}
    theirs = reference.gradients(weights, images, upstream)
    taps = reference.taps(weights, images)
    arriving = {tap: theirs.inputs[tap] for tap in taps}
    ours = {
        "free": candidate.gradients(weights, images, upstream),
        "alone": candidate.gradients(weights, images, arriving, given=taps),
    }
    truth = {"free": theirs, "alone": theirs}
    again: dict[str, list[Gradients]] = {"free": [], "alone": []}
    if precision != "float64":
        wide, wide_images, wide_upstream, wide_taps, wide_arriving = (
            rounded(arrays, "float64") for arrays in (weights, {"": images}, upstream, taps, arriving)
        )
        truth["free"] = reference.gradients(wide, wide_images[""], wide_upstream)
        truth["alone"] = reference.gradients(wide, wide_images[""], wide_arriving, given=wide_taps)
        for other in (Reordering(config, np.random.default_rng(seed)) for seed in range(RERUNS)):
            reordered = other.weights(weights)
            free = reference.gradients(reordered, images, upstream)
            alone = reference.gradients(reordered, images, other.taps(arriving), given=other.taps(taps))
            again["free"].append(other.undone(free))
            again["alone"].append(other.undone(alone))
    tokens = len(images) * (config.num_patches + 1)  # that a parameter's gradient sums over
    features = max(3 * config.hidden_dim, config.mlp_dim)  # ... and an input's
    return tuple(
        diff
        for mode in MODES
        for runs in [Runs(mode, precision, ours[mode], theirs, truth[mode], again[mode])]
        for diff in (*runs.parameters(tokens), *runs.inputs(features))
    )


def random_upstream(shape: tuple[int, ...], precision: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(DTYPES[precision])


@dataclasses.dataclass(frozen=True)
class Runs:
    """The gradients that one verdict is made of: both sides', the truth, and further runs of the reference."""

    mode: Mode
    precision: str
    ours: Gradients
    theirs: Gradients
    truth: Gradients
    again: list[Gradients]

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
        return self._judged(name, lambda side: self._row(side, joined), terms, beside, accumulates)

    def _row(self, side: Gradients, names: tuple[str, ...]) -> np.ndarray | None:
        """Leaves as one row, as a parameter's error is taken over all of it; one that is wrong, as it is."""
        leaves = [side.parameters.get(name) for name in names]
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
    ) -> Diff:
        ours, theirs, truth = of(self.ours), of(self.theirs), of(self.truth)
        again = [array for side in self.again if (array := of(side)) is not None]
        return measure(name, self.mode, ours, theirs, truth, self.precision, terms, beside, accumulates, again)
