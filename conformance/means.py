"""A reference whose norms take the mean of a token as roughly as a sound sum may, where tokens have an offset."""

import math

import numpy as np

from conformance.sides import Taps
from conformance.tolerances import ONE_DRAW, mean_error
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights


def with_rough_means(weights: Weights, taps: Taps, config: ViTConfig) -> Weights:
    """The weights, each norm's bias shifted by what a wrong mean shifts the tokens by; `taps` are the model's own.

    A mean that is off moves all features of a normalised token alike, and each token otherwise. On the bias all move by
    the root mean square. The worst of T tokens moves by √(2 ln T) of that: `ROUNDING_FACTOR`, for a hundred of them.
    """
    shifts: dict[str, float] = {}
    before = ""
    for tap in taps:
        if (norm := _norm_before(tap, config)) is not None:
            shifts[norm] = max(shifts.get(norm, 0.0), typical_shift(taps[before], config.norm_epsilon))
        before = tap
    changed = {}
    for norm, shift in shifts.items():
        scale, bias = weights[f"{norm}/scale"], weights[f"{norm}/bias"]
        changed[f"{norm}/bias"] = bias + scale * scale.dtype.type(shift)
    return weights | changed


def typical_shift(tokens: np.ndarray, epsilon: float) -> float:
    """The root mean square, over tokens, of what their mean is off by, in units of their standard deviation.

    A token that is the same in every image, as the class token before the first block, draws its error but once: one in
    some hundred models has it at three of its root mean squares in all images, and passes it on to the tokens that
    attend to it. So what one draw may reach is granted, if that is more.
    """
    tokens = tokens.astype(np.float64)
    offsets = tokens.mean(axis=-1) / np.sqrt(tokens.var(axis=-1) + epsilon)
    same = (tokens == tokens[:1]).all(axis=(0, -1))
    once = np.abs(offsets[0, same]).max(initial=0.0) * ONE_DRAW
    return mean_error(tokens.shape[-1]) * max(math.sqrt(np.mean(offsets**2)), once)


def _norm_before(tap: str, config: ViTConfig) -> str | None:
    """The leaves' name of the norm that the block of this tap begins with; None where it begins with none."""
    match tap.split("/"):
        case ["encoder", layer, "attention" | "mlp" as part]:
            own = f"{int(layer) % config.num_own_layers:02}"
            return f"encoder/{own}/norm{1 if part == 'attention' or config.share_norm else 2}"
        case ["norm"]:
            return "norm"
    return None
