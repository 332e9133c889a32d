"""Faults of the MLP, of how a layer adds up, of the last norm and of the head."""

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import special

from conformance.faults import Around, Fault, data_order, still, tapped
from conformance.leaf_edits import each_layer, leaf, zeroed
from conformance.plain import Change, gelu, gelu_tanh
from conformance.sides import Taps
from conformance.variations import Variation, varied
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights


def share_norm(weights: Weights, layer: str, config: ViTConfig) -> Weights:
    return {f"{layer}/norm2/{kind}": weights[f"{layer}/norm1/{kind}"] for kind in ("scale", "bias")}


def other_gelu(config: ViTConfig) -> ViTConfig:
    return config.replace(activation="gelu" if config.activation == "gelu_tanh" else "gelu_tanh")


def activation(function: Callable[[np.ndarray], np.ndarray]) -> dict[str, Around]:
    return varied(Variation(activation=lambda own: function))


def quick_gelu(x: np.ndarray) -> np.ndarray:
    return x * special.expit(1.702 * x)


def silu(x: np.ndarray) -> np.ndarray:
    return x * special.expit(x)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def gelu_by_polynomial(x: np.ndarray) -> np.ndarray:
    """With erf as in Abramowitz and Stegun, 7.1.26: off by up to 1.5e-7."""
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return x * (1 + np.sign(x) * (1 - series * np.exp(-(z**2)))) / 2


def gelu_of_narrow_constants(x: np.ndarray) -> np.ndarray:
    return x * (1 + special.erf(x * float(np.sqrt(np.float32(0.5))))) / 2


def gelu_tanh_of_narrow_constants(x: np.ndarray) -> np.ndarray:
    inner = float(np.sqrt(np.float32(2 / np.pi))) * (x + float(np.float32(0.044715)) * x**3)
    return x * (1 + np.tanh(inner)) / 2


NARROW: dict[Change, Change] = {gelu: gelu_of_narrow_constants, gelu_tanh: gelu_tanh_of_narrow_constants}


def head_reads(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Around]:
    """The head is given something else than the class token of the last tap before it."""

    @still
    def around(
        method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, given: Taps | None = None
    ) -> Taps:
        taps = method(weights, images, given=given)
        last = [tap for tap in data_order(config) if tap in taps][-2]
        read = change((given or taps)[last])
        again = method(weights, images, given=taps | (given or {}) | {last: np.ascontiguousarray(read)})
        return taps | {"logits": again["logits"]}

    return {"taps": around}


def pooled(x: np.ndarray) -> np.ndarray:
    """The mean of the patch tokens in the class token's place."""
    return np.concatenate([x[:, 1:].mean(axis=1, keepdims=True), x[:, 1:]], axis=1).astype(x.dtype)


def pooled_with_class(x: np.ndarray) -> np.ndarray:
    """The mean of all tokens in the class token's place."""
    return np.concatenate([x.mean(axis=1, keepdims=True), x[:, 1:]], axis=1).astype(x.dtype)


def last_first(x: np.ndarray) -> np.ndarray:
    return np.roll(x, 1, axis=1)


def shift_classes(tap: str, value: np.ndarray, before: Taps) -> np.ndarray:
    return np.roll(value, 1, axis=-1)


at_attention = partial(Fault, rung="float64", place="encoder/00/attention")
at_mlp = partial(Fault, rung="float64", place="encoder/00/mlp")
at_middle = partial(Fault, rung="float64", place="encoder/00/middle")
at_sum = partial(Fault, rung="float64", place="encoder/00")
at_norm = partial(Fault, rung="float64", place="norm", applies=lambda c: c.final_norm)
at_logits = partial(Fault, rung="float64", place="logits")

BLOCKS = (
    # MLP
    at_mlp(
        name="the other GELU",
        seen="jax.nn.gelu's default is the tanh approximation, PyTorch's is exact",
        config=other_gelu,
    ),
    at_mlp(
        name="QuickGELU",
        seen="x · sigmoid(1.702 x), as in CLIP",
        around=activation(quick_gelu),
    ),
    at_mlp(
        name="SiLU",
        seen="swish for GELU",
        around=activation(silu),
    ),
    at_mlp(
        name="ReLU",
        seen="the default of nn.TransformerEncoderLayer",
        around=activation(relu),
    ),
    at_mlp(
        name="no activation",
        seen="two dense layers in a row",
        around=activation(lambda x: x),
    ),
    at_mlp(
        name="erf by a polynomial",
        seen="Abramowitz and Stegun 7.1.26, where a library has no erf",
        around=activation(gelu_by_polynomial),
        applies=lambda c: c.activation == "gelu",
    ),
    at_mlp(
        name="GELU's constants in float32",
        seen="np.float32(np.sqrt(0.5)) in a model of any precision",
        around=varied(Variation(activation=lambda own: NARROW[own])),
    ),
    at_mlp(
        name="one norm for both sub-layers",
        seen="invisible while norms are fresh",
        around=each_layer(share_norm),
        applies=lambda c: not c.share_norm,
    ),
    at_mlp(
        name="first MLP bias dropped",
        seen="Dense(use_bias=False)",
        around=leaf("{layer}/mlp/fc1/bias", zeroed),
    ),
    at_mlp(
        name="second MLP bias dropped",
        seen="Dense(use_bias=False)",
        around=leaf("{layer}/mlp/fc2/bias", zeroed),
    ),
    # How a layer adds up
    at_middle(
        name="residual dropped",
        seen="x = branch(x), twice",
        around=varied(Variation(middle=lambda x, attention: attention, out=lambda x, middle, mlp: mlp)),
    ),
    at_middle(
        name="attention's residual dropped",
        seen="x = attention(x)",
        around=varied(Variation(middle=lambda x, attention: attention)),
    ),
    at_middle(
        name="residual taken after the norm",
        seen="x = norm(x), then x + branch(x)",
        around=varied(Variation(residual_normed=True)),
    ),
    at_sum(
        name="the MLP's residual dropped",
        seen="x = mlp(x)",
        around=varied(Variation(out=lambda x, middle, mlp: mlp)),
    ),
    at_sum(
        name="attention not added",
        seen="the MLP's residual taken from before attention",
        around=varied(Variation(out=lambda x, middle, mlp: x + mlp)),
    ),
    at_mlp(
        name="attention and MLP side by side",
        seen="the parallel blocks of ViT-22B and GPT-J",
        around=varied(Variation(parallel=True)),
    ),
    at_attention(
        name="norm after the sum",
        seen="the encoder of 2017: norm_first=False is PyTorch's default",
        around=varied(Variation(norm_after=True)),
    ),
    # Norm and head
    at_norm(
        name="final norm skipped",
        seen="pre-norm without its last norm",
        config=lambda c: c.replace(final_norm=False),
    ),
    at_norm(
        name="final norm bias dropped",
        seen="LayerNorm(use_bias=False)",
        around=leaf("norm/bias", zeroed),
    ),
    at_logits(
        name="head bias dropped",
        seen="Dense(use_bias=False)",
        around=leaf("head/bias", zeroed),
    ),
    at_logits(
        name="classes off by one",
        seen="a background class in front",
        around=tapped(shift_classes, lambda tap: tap == "logits"),
    ),
    at_logits(
        name="mean token for class token",
        seen="global average pooling",
        around=head_reads(pooled),
    ),
    at_logits(
        name="mean of all tokens for class token",
        seen="global average pooling of x, not of x[:, 1:]",
        around=head_reads(pooled_with_class),
    ),
    at_logits(
        name="last token for class token",
        seen="x[:, -1], as language models have it",
        around=head_reads(last_first),
    ),
    at_logits(
        name="tanh before the head",
        seen="pre_logits of the first checkpoints",
        around=head_reads(np.tanh),
    ),
    at_logits(
        name="logits soft-capped at 30",
        seen="30 tanh(logits / 30), as in Gemma 2",
        around=varied(Variation(logits=lambda logits: 30 * np.tanh(logits / 30))),
    ),
    at_logits(
        name="softmax in the model",
        seen="probabilities for logits",
        around=varied(Variation(logits=lambda logits: special.softmax(logits, axis=-1))),
    ),
)
