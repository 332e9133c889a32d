"""Faults of a side as such: of what should be a function and is not, and of short cuts that ordinary values hide."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from einops import rearrange

from conformance.faults import Anew, Around, Fault, still, tapped
from conformance.function import CALLS
from conformance.sides import Gradients, Taps
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

SMALL = 1e-3
CAP = 50.0
ATTENTION = "encoder/00/attention"

Softmax = Callable[[np.ndarray], np.ndarray]  # of scores


def seen(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Around]:
    """The side sees other images than it is given."""

    @still
    def around(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, given: Any = None) -> Taps:
        return method(weights, change(images), given=given)

    return {"taps": around}


# A side is a function


def odd_logits() -> Around:
    """One answer in ten is off."""
    calls = itertools.count()

    @still
    def around(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, given: Any = None) -> Taps:
        taps = method(weights, images, given=given)
        off = next(calls) % 10 == 9
        return {**taps, "logits": taps["logits"] * taps["logits"].dtype.type(1 + SMALL)} if off else taps

    return around


def last_mean_subtracted() -> Around:
    """Images are centred by what was measured the last time."""
    means = [0.0]

    def change(images: np.ndarray) -> np.ndarray:
        means.append(float(images.mean()))
        return images - images.dtype.type(SMALL * means.pop(0))

    return seen(change)["taps"]


def gradients_added() -> Around:
    """To those of the last call."""
    last: Weights = {}

    def around(method: Around, config: ViTConfig, *arguments: Any, **named: Any) -> Gradients:
        nonlocal last
        found = method(*arguments, **named)
        before, last = last, found.parameters
        added = {
            n: g + before[n] if n in before and before[n].dtype == g.dtype else g for n, g in found.parameters.items()
        }
        return Gradients(found.inputs, added)

    return around


def gradients_held(method: Around, config: ViTConfig, *arguments: Any, **named: Any) -> Gradients:
    found = method(*arguments, **named)
    return Gradients(*({name: np.clip(g, -1e4, 1e4) for name, g in part.items()} for part in found))


def mean_subtracted(images: np.ndarray) -> np.ndarray:
    return images - images.dtype.type(SMALL) * images.mean(axis=0, dtype=images.dtype)


def brighter_by_place(images: np.ndarray) -> np.ndarray:
    place = np.arange(len(images), dtype=images.dtype).reshape(-1, 1, 1, 1)
    return images + images.dtype.type(SMALL) * place


@still
def spoil_weights(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, given: Any = None) -> Taps:
    """Scaled in place, after they have served."""
    taps = method(weights, images, given=given)
    leaf = weights["head/bias"]
    leaf.setflags(write=True)
    leaf *= 2
    return taps


# Hostile values


def nan_spread(tap: str, value: np.ndarray, known: Taps) -> np.ndarray:
    return np.full_like(value, np.nan) if np.isnan(value).any() else value


def attending(softmax: Softmax) -> dict[str, Around]:
    """Attention with another softmax: what that changes is added, so it is the side's own where nothing changes."""

    @still
    def around(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, given: Any = None) -> Taps:
        def added(tap: str, known: Taps) -> np.ndarray:
            scores, project = _scores(_input(tap, known), tap, weights, config)
            return project(softmax(scores) - _softmax(scores))

        taps = method(weights, images, given=given)
        if not any(added(tap, taps | (given or {})).any() for tap in taps if is_attention(tap)):
            return taps
        changed = tapped(lambda tap, value, known: (value + added(tap, known)).astype(value.dtype), is_attention)
        return changed["taps"](method, config, weights, images, given=given)

    return {"taps": around}


def is_attention(tap: str) -> bool:
    return tap.endswith("/attention")


def _input(tap: str, known: Taps) -> np.ndarray:
    layer = int(tap.split("/")[1])
    return known["embedding" if layer == 0 else f"encoder/{layer - 1:02}"].astype(np.float64)


def _scores(
    x: np.ndarray, tap: str, weights: Weights, config: ViTConfig
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """The scores of a layer's attention, and the function from their softmax to what the tap sees; in float64."""
    layer = f"encoder/{int(tap.split('/')[1]) % config.num_own_layers:02}"
    held = {n.removeprefix(f"{layer}/"): w.astype(np.float64) for n, w in weights.items() if n.startswith(f"{layer}/")}
    spread = np.sqrt(x.var(axis=-1, keepdims=True) + config.norm_epsilon)
    x = (x - x.mean(axis=-1, keepdims=True)) / spread * held["norm1/scale"] + held["norm1/bias"]

    def heads(part: str) -> np.ndarray:
        y = x @ held[f"attention/{part}/kernel"] + held[f"attention/{part}/bias"]
        return rearrange(y, "b t (h k) -> b h t k", h=config.num_heads)

    def project(shares: np.ndarray) -> np.ndarray:
        joined = rearrange(shares @ heads("value"), "b h t k -> b t (h k)")
        return joined @ held["attention/projection/kernel"]

    return heads("query") @ rearrange(heads("key"), "b h t k -> b h k t") / math.sqrt(config.head_dim), project


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _clipped(scores: np.ndarray) -> np.ndarray:
    return _softmax(np.clip(scores, -CAP, CAP))


SIDES: tuple[Fault, ...] = (
    Fault(
        "one answer in ten is off",
        "function",
        f"asked {CALLS} times: logits",
        "a race between threads, or memory that is not cleared",
        around={"taps": Anew(odd_logits)},
    ),
    Fault(
        "centred by the last batch",
        "function",
        f"asked {CALLS} times: patches",
        "running statistics that evaluation updates too",
        around={"taps": Anew(last_mean_subtracted)},
    ),
    Fault(
        "centred by its own batch",
        "function",
        "in a batch of three: patches",
        "batch statistics in evaluation",
        around=seen(mean_subtracted),
    ),
    Fault(
        "the place in the batch is seen",
        "function",
        "in another order: patches",
        "positions added along the wrong axis",
        around=seen(brighter_by_place),
    ),
    Fault(
        "weights changed in place",
        "function",
        "inputs",
        "an in-place operation on a view",
        around={"taps": spoil_weights},
    ),
    Fault(
        "gradients added to the last ones",
        "gradients function",
        "asked again: embedding/cls_token",
        "zero_grad forgotten",
        around={"gradients": Anew(gradients_added)},
    ),
    Fault(
        "gradients clamped at 10,000",
        "gradients function",
        "upstream times 16384: embedding/cls_token",
        "a hook against overflow in the backward pass",
        around={"gradients": gradients_held},
    ),
    Fault(
        "scores clipped at 50",
        "hostile",
        f"saturated attention: {ATTENTION}",
        "clipping for stability",
        around=attending(_clipped),
    ),
    Fault(
        "images clamped",
        "hostile",
        "images times 1e3: patches",
        "clamping to [-1, 1] before the model",
        around=seen(lambda images: np.clip(images, -1, 1)),
    ),
    Fault(
        "NaN taken for zero",
        "hostile",
        "one image of NaN: patches",
        "nan_to_num",
        around=seen(np.nan_to_num),
    ),
    Fault(
        "NaN spread over the batch",
        "hostile",
        "one image of NaN: encoder/00/mlp",
        "a mask that multiplies, where it should choose",
        around=tapped(nan_spread, lambda tap: tap == "encoder/00/mlp"),
    ),
)
