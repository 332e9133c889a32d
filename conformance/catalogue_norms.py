"""Faults of LayerNorm, and of what is computed in float32 where more was asked for."""

from collections.abc import Callable
from functools import partial

import numpy as np

from conformance.faults import Fault
from conformance.plain import Array, Change, layer_norm, softmax
from conformance.variations import Norm, Variation, varied
from vit_flax.config import ViTConfig

EPSILONS = {
    1e-3: "Keras's default",
    1e-5: "torch.nn.LayerNorm's default",
    1e-6: "flax.linen.LayerNorm's default, timm's and torchvision's ViT",
    1e-12: "layer_norm_eps of google/vit on Hugging Face",
}


def unbiased(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """A variance over D - 1."""
    variance = x.var(axis=-1, keepdims=True, ddof=1)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + epsilon) * scale + bias


def epsilon_outside(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    return (x - x.mean(axis=-1, keepdims=True)) / (x.std(axis=-1, keepdims=True) + epsilon) * scale + bias


def epsilon_as_floor(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    variance = np.maximum(x.var(axis=-1, keepdims=True), epsilon)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance) * scale + bias


def annotated(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    deviation = x.std(axis=-1, keepdims=True, ddof=1)
    return (x - x.mean(axis=-1, keepdims=True)) / (deviation + epsilon) * scale + bias


def root_mean_square(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * scale + bias


def narrow(function: Change) -> Change:
    """The same in float32, whatever it is given in."""
    return lambda x: function(x.astype(np.float32)).astype(x.dtype)


def narrow_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """As flax.linen.LayerNorm(dtype=float32)."""
    x32, scale32, bias32 = (a.astype(np.float32) for a in (x, scale, bias))
    return layer_norm(x32, scale32, bias32, float(np.float32(epsilon))).astype(x.dtype)


def has_epsilon_not(epsilon: float) -> Callable[[ViTConfig], bool]:
    return lambda config: config.norm_epsilon != epsilon


def with_epsilon(epsilon: float) -> Callable[[ViTConfig], ViTConfig]:
    return lambda config: config.replace(norm_epsilon=epsilon)


def norm(function: Norm) -> dict:
    return varied(Variation(norm=function))


fault = partial(Fault, rung="float64", place="encoder/00/attention")

NORMS = (
    *(
        fault(
            name=f"LayerNorm eps {epsilon:.0e}".replace("e-0", "e-"),
            seen=seen,
            config=with_epsilon(epsilon),
            applies=has_epsilon_not(epsilon),
        )
        for epsilon, seen in EPSILONS.items()
    ),
    Fault(
        name="LayerNorm's fast variance",
        rung="float32 offset",
        place="encoder/00/attention",
        seen="flax.linen.LayerNorm's default",
        config=lambda c: c.replace(norm_variance="fast"),
        applies=lambda c: c.norm_variance != "fast",
    ),
    fault(
        name="unbiased variance in LayerNorm",
        seen="torch.var's default",
        around=norm(unbiased),
    ),
    fault(
        name="epsilon outside the root",
        seen="added to the deviation, not to the variance",
        around=norm(epsilon_outside),
    ),
    fault(
        name="no epsilon added to the variance",
        seen="max(variance, eps), or no epsilon at all",
        around=norm(epsilon_as_floor),
    ),
    fault(
        name="LayerNorm of the Annotated Transformer",
        seen="(x - mean) / (x.std() + eps), unbiased",
        around=norm(annotated),
    ),
    fault(
        name="RMSNorm",
        seen="the mean not subtracted, as in Llama",
        around=norm(root_mean_square),
    ),
    # In float32 within a wider model
    fault(
        name="LayerNorm in float32",
        seen="dtype=jnp.float32, x.float() before the norm",
        around=norm(narrow_norm),
        float32_inside=True,
    ),
    fault(
        name="softmax in float32",
        seen="softmax(..., dtype=torch.float32), jax.nn.dot_product_attention",
        around=varied(Variation(softmax=narrow(softmax))),
        float32_inside=True,
    ),
    fault(
        name="GELU in float32",
        place="encoder/00/mlp",
        seen="an activation that casts its input",
        around=varied(Variation(activation=narrow)),
        float32_inside=True,
    ),
)
