"""Faults of precision in the forward pass, and faults of the backward pass."""

from collections.abc import Callable
from functools import partial

import ml_dtypes
import numpy as np

from conformance.faults import Around, Fault, recomputed
from conformance.rounding import to_bits
from conformance.sides import Gradients, Taps
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

BFLOAT16 = ml_dtypes.bfloat16


def narrowed(precision: type, bits: int) -> dict[str, Around]:
    """Where one precision is asked for, matrix products take their factors in fewer bits."""

    def around(
        method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, *rest: object, **named: object
    ) -> object:
        if images.dtype == precision:
            kernels = {name: to_bits(x, bits) if name.endswith("kernel") else x for name, x in weights.items()}
            return method(kernels, to_bits(images, bits), *rest, **named)
        return method(weights, images, *rest, **named)

    return {"taps": around}


def rounded_taps(precision: type, bits: int) -> dict[str, Around]:
    """Where one precision is asked for, what passes from block to block is kept in fewer bits."""
    kept = recomputed(lambda site: to_bits(site.value, bits), lambda tap: True)["taps"]

    def around(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, **named: object) -> Taps:
        if images.dtype == precision:
            return kept(method, config, weights, images, **named)
        return method(weights, images, **named)

    return {"taps": around}


def gradient(ending: str, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Around]:
    """The gradients of leaves whose names end so are others."""

    def around(method: Around, config: ViTConfig, *arguments: object, **named: object) -> Gradients:
        found: Gradients = method(*arguments, **named)
        changed = {name: change(g) for name, g in found.parameters.items() if name.endswith(ending)}
        return found._replace(parameters=found.parameters | changed)

    return {"gradients": around}


def stop_at_embedding(method: Around, config: ViTConfig, *arguments: object, **named: object) -> Gradients:
    """Nothing flows back through the embedding: alone, that is its own gradient; free, all of what lies before too."""
    found: Gradients = method(*arguments, **named)
    before = ("embedding",) if named.get("given") is not None else ("images", "patches", "embedding")
    inputs = {tap: np.zeros_like(g) if tap in before else g for tap, g in found.inputs.items()}
    if named.get("given") is not None:
        return found._replace(inputs=inputs)
    leaves = found.parameters.items()
    return Gradients(inputs, {name: np.zeros_like(g) if name.startswith(before) else g for name, g in leaves})


def narrow_gradients(precision: type, bits: int) -> dict[str, Around]:
    """The gradients of leaves, once they are whole, in fewer bits: as they are sent from device to device."""

    def around(
        method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, *rest: object, **named: object
    ) -> Gradients:
        found: Gradients = method(weights, images, *rest, **named)
        if images.dtype != precision:
            return found
        return found._replace(parameters={name: to_bits(g, bits) for name, g in found.parameters.items()})

    return {"gradients": around}


in_float32 = partial(Fault, rung="float32", place="patches")
in_bfloat16 = partial(Fault, rung="bfloat16", place="patches")
in_float16 = partial(Fault, rung="float16", place="patches")
of_gradients = partial(Fault, rung="gradients float64")

ROUNDING = (
    in_float32(
        name="float32 products in TF32",
        seen="jax_default_matmul_precision on an A100 or later",
        around=narrowed(np.float32, 11),
    ),
    in_float32(
        name="float32 products in bfloat16",
        seen="the default precision of a TPU",
        around=narrowed(np.float32, 8),
    ),
    in_float32(
        name="float32 blocks kept in bfloat16",
        seen="dtype=bfloat16 where only the products were meant",
        around=rounded_taps(np.float32, 8),
    ),
    in_bfloat16(
        name="bfloat16 products in 4 bits",
        seen="float8_e4m3 kernels",
        around=narrowed(BFLOAT16, 4),
    ),
    in_bfloat16(
        name="bfloat16 blocks kept in 4 bits",
        seen="float8_e4m3 activations",
        around=rounded_taps(BFLOAT16, 4),
    ),
    in_float16(
        name="float16 products in bfloat16",
        seen="one half precision for another",
        around=narrowed(np.float16, 8),
    ),
    in_float16(
        name="float16 blocks kept in bfloat16",
        seen="one half precision for another",
        around=rounded_taps(np.float16, 8),
    ),
)

BACKWARD = (
    of_gradients(
        name="positions frozen",
        place="embedding/position_embedding",
        seen="a buffer for a parameter",
        around=gradient("embedding/position_embedding", np.zeros_like),
    ),
    of_gradients(
        name="class token frozen",
        place="embedding/cls_token",
        seen="a buffer for a parameter",
        around=gradient("embedding/cls_token", np.zeros_like),
    ),
    of_gradients(
        name="patch projection frozen",
        place="patches/conv/kernel",
        seen="stop_grad_conv1 of MoCo v3",
        around=gradient("patches/conv/kernel", np.zeros_like),
    ),
    of_gradients(
        name="head gradient of the wrong sign",
        place="head/kernel",
        seen="a custom backward pass",
        around=gradient("head/kernel", np.negative),
    ),
    of_gradients(
        name="norm gradient halved",
        place="{last_scale}",
        seen="a custom backward pass",
        around=gradient("/scale", lambda g: g / 2),
    ),
    of_gradients(
        name="gradient stopped at the embedding",
        place="embedding",
        seen="stop_gradient on frozen features",
        around={"gradients": stop_at_embedding},
    ),
    Fault(
        name="float32 gradients in bfloat16",
        rung="gradients float32",
        place="head/kernel",
        seen="gradients reduced in half precision",
        around=narrow_gradients(np.float32, 8),
    ),
    Fault(
        name="bfloat16 gradients in 3 bits",
        rung="gradients bfloat16",
        place="head/kernel",
        seen="float8_e5m2 gradients",
        around=narrow_gradients(BFLOAT16, 3),
    ),
)
