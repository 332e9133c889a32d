"""Gradients of both sides: with respect to every tap as an input, and to every parameter, alone and free-running.

The upstream gradient is random: a mean of the logits would hide whatever its symmetries cancel.
"""

import numpy as np

from conformance.compare import MODES, Diff, Mode, in_data_order, measure
from conformance.precision import DTYPES, rounded
from conformance.sides import Gradients, TrainableSide
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights


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
    if precision != "float64":
        wide, wide_images, wide_upstream, wide_taps, wide_arriving = (
            rounded(arrays, "float64") for arrays in (weights, {"": images}, upstream, taps, arriving)
        )
        truth["free"] = reference.gradients(wide, wide_images[""], wide_upstream)
        truth["alone"] = reference.gradients(wide, wide_images[""], wide_arriving, given=wide_taps)
    tokens = len(images) * (config.num_patches + 1)  # that a parameter's gradient sums over
    features = max(3 * config.hidden_dim, config.mlp_dim)  # ... and an input's
    return tuple(
        diff
        for mode in MODES
        for diff in (
            *_parameters(mode, ours[mode], theirs, truth[mode], precision, tokens),
            *_inputs(mode, ours[mode], theirs, truth[mode], precision, features),
        )
    )


def random_upstream(shape: tuple[int, ...], precision: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(DTYPES[precision])


def _inputs(mode: Mode, ours: Gradients, theirs: Gradients, truth: Gradients, precision: str, terms: int) -> list[Diff]:
    # The logits' own is the upstream gradient itself.
    taps = [tap for tap in ("images", *(tap for tap in theirs.inputs if tap != "images")) if tap != "logits"]
    return [
        measure(tap, mode, ours.inputs.get(tap), theirs.inputs.get(tap), truth.inputs.get(tap), precision, terms)
        for tap in reversed(taps)
    ]


def _parameters(
    mode: Mode, ours: Gradients, theirs: Gradients, truth: Gradients, precision: str, terms: int
) -> list[Diff]:
    def kernel_of(name: str) -> str:
        # Softmax does not see a bias of the keys: its gradient is zero, up to rounding of what its kernel's is made of.
        return name.replace("/key/bias", "/key/kernel")

    def flat(side: Gradients, name: str) -> np.ndarray | None:
        """One row, as a parameter's error is taken over all of it; left as it is where the shape is another."""
        array, shape = side.parameters.get(name), theirs.parameters[name].shape
        return array if array is None or array.shape != shape else array.reshape(-1)

    def judged(name: str) -> Diff:
        beside = truth.parameters[kernel_of(name)].reshape(-1)
        mine, their, true = (flat(side, name) for side in (ours, theirs, truth))
        if precision == "float64":
            return measure(name, mode, mine, their, true, precision, terms, beside)
        if kernel_of(name) != name:  # of rounding errors alone no ratio can be formed: it is judged with its kernel
            kernels = (flat(side, kernel_of(name)) for side in (ours, theirs, truth))
            mine, their, true = (_joined(a, b) for a, b in zip((mine, their, true), kernels, strict=True))
        return measure(name, mode, mine, their, true, precision, terms, beside, precision)

    return [judged(name) for name in reversed(in_data_order(theirs.parameters))]


def _joined(bias: np.ndarray | None, kernel: np.ndarray | None) -> np.ndarray | None:
    return None if bias is None or kernel is None else np.concatenate([bias.reshape(-1), kernel.reshape(-1)])
