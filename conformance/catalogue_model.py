"""Faults of the model itself: its configuration, the port of its weights, what it computes, in what precision."""

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
from einops import rearrange

from conformance.faults import Around, Edit, Fault, data_order, edited, still, tapped
from conformance.sides import Gradients, Taps
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

LayerEdit = Callable[[Weights, str, ViTConfig], Weights]


def each_layer(change: LayerEdit) -> dict[str, Around]:
    """The same change in each layer: `change(weights, "encoder/00", config)` returns the leaves it replaces."""

    def edit(weights: Weights, config: ViTConfig) -> Weights:
        layers = [f"encoder/{i:02}" for i in range(config.num_own_layers)]
        return weights | {name: leaf for layer in layers for name, leaf in change(weights, layer, config).items()}

    return edited(edit)


def leaf(name: str, change: Callable[[np.ndarray, ViTConfig], np.ndarray]) -> dict[str, Around]:
    """One leaf is another; `{layer}` in its name stands for each layer."""
    if "{layer}" in name:

        def in_layer(weights: Weights, layer: str, config: ViTConfig) -> Weights:
            full = name.format(layer=layer)
            return {full: change(weights[full], config)}

        return each_layer(in_layer)
    return edited(lambda weights, config: weights | {name: change(weights[name], config)})


def zeroed(x: np.ndarray, config: ViTConfig) -> np.ndarray:
    return np.zeros_like(x)


def transposed(x: np.ndarray, config: ViTConfig) -> np.ndarray:
    return np.ascontiguousarray(x.T)


def swapped(a: str, b: str) -> dict[str, Around]:
    """Two parts of each layer change places."""

    def change(weights: Weights, layer: str, config: ViTConfig) -> Weights:
        kinds = [name.rsplit("/", 1)[-1] for name in weights if name.startswith(f"{layer}/{a}/")]
        return {f"{layer}/{x}/{kind}": weights[f"{layer}/{y}/{kind}"] for kind in kinds for x, y in ((a, b), (b, a))}

    return each_layer(change)


def query_times(factor: Callable[[ViTConfig], float]) -> dict[str, Around]:
    """Scores scaled otherwise: the same as a larger or smaller query."""

    def change(weights: Weights, layer: str, config: ViTConfig) -> Weights:
        names = [f"{layer}/attention/query/{kind}" for kind in ("kernel", "bias")]
        return {name: (weights[name] * factor(config)).astype(weights[name].dtype) for name in names}

    return each_layer(change)


def split_heads_last(weights: Weights, layer: str, config: ViTConfig) -> Weights:
    """Features read as (head_dim, heads) where they are (heads, head_dim)."""
    names = [f"{layer}/attention/{part}/{kind}" for part in ("query", "key", "value") for kind in ("kernel", "bias")]
    return {name: rearrange(weights[name], "... (k h) -> ... (h k)", h=config.num_heads) for name in names}


def share_norm(weights: Weights, layer: str, config: ViTConfig) -> Weights:
    return {f"{layer}/norm2/{kind}": weights[f"{layer}/norm1/{kind}"] for kind in ("scale", "bias")}


def from_layer(source: Callable[[int, int], int]) -> Edit:
    """Layer i gets the weights of another."""

    def edit(weights: Weights, config: ViTConfig) -> Weights:
        layers = config.num_own_layers
        sources = {f"encoder/{i:02}/": f"encoder/{source(i, layers):02}/" for i in range(layers)}
        moved = {name: weights[sources[name[:11]] + name[11:]] for name in weights if name[:11] in sources}
        return weights | moved

    return edit


def swap_in_last_layer(weights: Weights, config: ViTConfig) -> Weights:
    names = [f"encoder/{config.num_own_layers - 1:02}/attention/{part}/kernel" for part in ("query", "key")]
    return weights | {a: weights[b] for a, b in (names, names[::-1])}


def transpose_grid(weights: Weights, config: ViTConfig) -> Weights:
    name, (height, width) = "embedding/position_embedding", config.grid
    cls_token, grid = weights[name][:, :1], weights[name][:, 1:]
    grid = rearrange(grid, "b (w h) d -> b (h w) d", h=height, w=width)
    return weights | {name: np.concatenate([cls_token, grid], axis=1)}


def no_position_for_class(x: np.ndarray, config: ViTConfig) -> np.ndarray:
    return np.concatenate([np.zeros_like(x[:, :1]), x[:, 1:]], axis=1)


def flatten_channels_first(x: np.ndarray, config: ViTConfig) -> np.ndarray:
    """A patch flattened as (channels, height, width) meets a kernel for (height, width, channels)."""
    height, width, channels, _ = x.shape
    return rearrange(x, "h w c o -> (h w c) o").reshape(channels, height, width, -1).transpose(1, 2, 0, 3)


def forget_last_leaf(method: Around, config: ViTConfig, weights: Weights) -> Weights:
    """A leaf that the port skips keeps its initial value."""
    return method(weights) | {"head/bias": np.zeros_like(weights["head/bias"])}


def hold_in_half(method: Around, config: ViTConfig, weights: Weights) -> Weights:
    return method({name: to_bits(x, 8) for name, x in weights.items()})


def is_layer(tap: str) -> bool:
    return tap.startswith("encoder/") and tap.count("/") == 1


def is_sum(tap: str) -> bool:
    """Where a branch is added to the tokens: in the middle of a layer and at its end."""
    return is_layer(tap) or tap.endswith("/middle")


def drop_residual(tap: str, value: np.ndarray, before: Taps) -> np.ndarray:
    """A branch alone, without what it is added to."""
    return before[f"{tap}/mlp" if is_layer(tap) else tap.replace("middle", "attention")]


def forget_attention(tap: str, value: np.ndarray, before: Taps) -> np.ndarray:
    return value - before[f"{tap}/attention"]


def class_token_last(tap: str, value: np.ndarray, before: Taps) -> np.ndarray:
    return np.roll(value, -1, axis=1)


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


def shift_classes(tap: str, value: np.ndarray, before: Taps) -> np.ndarray:
    return np.roll(value, 1, axis=-1)


def to_bits(x: np.ndarray, bits: int) -> np.ndarray:
    """Rounded to so many significant bits; the dtype stays."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent).astype(x.dtype)


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
    """Where one precision is asked for, what passes between blocks is kept in fewer bits."""

    def around(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, **named: object) -> Taps:
        taps = method(weights, images, **named)
        return {tap: to_bits(x, bits) for tap, x in taps.items()} if images.dtype == precision else taps

    return {"taps": around}


def gradient(name: str, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Around]:
    """The gradient of one leaf is another."""

    def around(method: Around, config: ViTConfig, *arguments: object, **named: object) -> Gradients:
        found: Gradients = method(*arguments, **named)
        return found._replace(parameters=found.parameters | {name: change(found.parameters[name])})

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
    def around(
        method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, *rest: object, **named: object
    ) -> Gradients:
        found: Gradients = method(weights, images, *rest, **named)
        if images.dtype != precision:
            return found
        return Gradients(*({name: to_bits(x, bits) for name, x in arrays.items()} for arrays in found))

    return {"gradients": around}


def other_gelu(config: ViTConfig) -> ViTConfig:
    return config.replace(activation="gelu" if config.activation == "gelu_tanh" else "gelu_tanh")


def many_layers(config: ViTConfig) -> bool:
    return config.num_own_layers > 1


def colour(config: ViTConfig) -> bool:
    return config.channels > 1


ATTENTION, MLP = "encoder/00/attention", "encoder/00/mlp"
BFLOAT16 = ml_dtypes.bfloat16

MODEL = (
    # Weights
    Fault(
        "a leaf forgotten",
        "weights",
        "head/bias",
        "loaders that only warn of missing keys",
        around={"held": forget_last_leaf},
    ),
    Fault(
        "weights kept in bfloat16",
        "weights",
        "embedding/cls_token",
        "a checkpoint cast on the way",
        around={"held": hold_in_half},
    ),
    # Patches
    Fault(
        "patch kernel sides swapped",
        "float64",
        "patches",
        "HWIO taken for WHIO",
        around=leaf("patches/conv/kernel", lambda x, c: rearrange(x, "h w i o -> w h i o")),
        applies=lambda c: c.patch_size > 1,
    ),
    Fault(
        "colours reversed",
        "float64",
        "patches",
        "OpenCV reads BGR",
        around=leaf("patches/conv/kernel", lambda x, c: x[:, :, ::-1].copy()),
        applies=colour,
    ),
    Fault(
        "patches flattened channels first",
        "float64",
        "patches",
        "NCHW flattened for a kernel of NHWC",
        around=leaf("patches/conv/kernel", flatten_channels_first),
        applies=colour,
    ),
    Fault("patch bias dropped", "float64", "patches", "Conv(use_bias=False)", around=leaf("patches/conv/bias", zeroed)),
    # Embedding
    Fault(
        "position grid transposed",
        "float64",
        "embedding",
        "positions counted by column",
        around=edited(transpose_grid),
        applies=lambda c: min(c.grid) > 1,
    ),
    Fault(
        "class token without position",
        "float64",
        "embedding",
        "timm's no_embed_class",
        around=leaf("embedding/position_embedding", no_position_for_class),
    ),
    Fault(
        "class token zeroed", "float64", "embedding", "a fresh class token", around=leaf("embedding/cls_token", zeroed)
    ),
    Fault(
        "class token last",
        "float64",
        "embedding",
        "tokens appended, not prepended",
        around=tapped(class_token_last, lambda tap: tap == "embedding"),
    ),
    # Attention
    Fault(
        "LayerNorm eps 1e-5",
        "float64",
        ATTENTION,
        "torch.nn.LayerNorm's default",
        config=lambda c: c.replace(norm_epsilon=1e-5),
    ),
    Fault(
        "LayerNorm eps 1e-12",
        "float64",
        ATTENTION,
        "layer_norm_eps of google/vit on Hugging Face",
        config=lambda c: c.replace(norm_epsilon=1e-12),
    ),
    Fault(
        "LayerNorm's fast variance",
        "float32 offset",
        ATTENTION,
        "flax.linen.LayerNorm's default",
        config=lambda c: c.replace(norm_variance="fast"),
    ),
    Fault(
        "query and key swapped",
        "float64",
        ATTENTION,
        "the order of a fused kernel",
        around=swapped("attention/query", "attention/key"),
    ),
    Fault(
        "key and value swapped",
        "float64",
        ATTENTION,
        "the order of a fused kernel",
        around=swapped("attention/key", "attention/value"),
    ),
    Fault(
        "query and key swapped in the last layer",
        "float64",
        "encoder/{last}/attention",
        "a layer forgotten in a loop",
        around=edited(swap_in_last_layer),
        applies=many_layers,
    ),
    Fault(
        "heads split in the wrong order",
        "float64",
        ATTENTION,
        "(head_dim, heads) for (heads, head_dim)",
        around=each_layer(split_heads_last),
        applies=lambda c: c.num_heads > 1,
    ),
    Fault(
        "scores scaled by width",
        "float64",
        ATTENTION,
        "√hidden_dim for √head_dim",
        around=query_times(lambda c: 1 / math.sqrt(c.num_heads)),
        applies=lambda c: c.num_heads > 1,
    ),
    Fault(
        "scores not scaled",
        "float64",
        ATTENTION,
        "a scale left to a kernel that has none",
        around=query_times(lambda c: math.sqrt(c.head_dim)),
    ),
    Fault(
        "scores scaled twice",
        "float64",
        ATTENTION,
        "a scaled query given to scaled attention",
        around=query_times(lambda c: 1 / math.sqrt(c.head_dim)),
    ),
    Fault(
        "attention bias dropped",
        "float64",
        ATTENTION,
        "invisible while biases are zero",
        around=leaf("{layer}/attention/projection/bias", zeroed),
    ),
    Fault(
        "value bias dropped",
        "float64",
        ATTENTION,
        "qkv_bias=False",
        around=leaf("{layer}/attention/value/bias", zeroed),
    ),
    Fault(
        "query kernel not transposed",
        "float64",
        ATTENTION,
        "square, so every shape check passes",
        around=leaf("{layer}/attention/query/kernel", transposed),
    ),
    Fault(
        "projection not transposed",
        "float64",
        ATTENTION,
        "square, so every shape check passes",
        around=leaf("{layer}/attention/projection/kernel", transposed),
    ),
    Fault(
        "norm scale counted from one",
        "float64",
        ATTENTION,
        "x · (1 + scale), as in Gemma",
        around=leaf("{layer}/norm1/scale", lambda x, c: x + 1),
    ),
    Fault(
        "norms swapped",
        "float64",
        ATTENTION,
        "Linen's automatic names",
        around=swapped("norm1", "norm2"),
        applies=lambda c: not c.share_norm,
    ),
    Fault(
        "layers off by one",
        "float64",
        ATTENTION,
        "counting layers from one",
        around=edited(from_layer(lambda i, n: (i + 1) % n)),
        applies=many_layers,
    ),
    Fault(
        "layers tied",
        "float64",
        "encoder/01/attention",
        "one layer object called in a loop",
        around=edited(from_layer(lambda i, n: 0)),
        applies=many_layers,
    ),
    Fault(
        "last block skipped",
        "float64",
        "encoder/{last}/attention",
        "range(num_layers - 1)",
        config=lambda c: c.replace(num_layers=c.num_layers - 1),
        applies=lambda c: c.num_layers > 1,
    ),
    # MLP
    Fault(
        "the other GELU",
        "float64",
        MLP,
        "jax.nn.gelu's default is the tanh approximation, PyTorch's is exact",
        config=other_gelu,
    ),
    Fault(
        "one norm for both sub-layers",
        "float64",
        MLP,
        "invisible while norms are fresh",
        around=each_layer(share_norm),
        applies=lambda c: not c.share_norm,
    ),
    Fault(
        "first MLP bias dropped", "float64", MLP, "Dense(use_bias=False)", around=leaf("{layer}/mlp/fc1/bias", zeroed)
    ),
    Fault(
        "second MLP bias dropped", "float64", MLP, "Dense(use_bias=False)", around=leaf("{layer}/mlp/fc2/bias", zeroed)
    ),
    # Blocks
    Fault("residual dropped", "float64", "encoder/00/middle", "x = branch(x)", around=tapped(drop_residual, is_sum)),
    Fault(
        "attention not added",
        "float64",
        "encoder/00",
        "the MLP's residual taken from before attention",
        around=tapped(forget_attention, is_layer),
    ),
    # Norm and head
    Fault(
        "final norm skipped",
        "float64",
        "norm",
        "pre-norm without its last norm",
        config=lambda c: c.replace(final_norm=False),
        applies=lambda c: c.final_norm,
    ),
    Fault(
        "final norm bias dropped",
        "float64",
        "norm",
        "LayerNorm(use_bias=False)",
        around=leaf("norm/bias", zeroed),
        applies=lambda c: c.final_norm,
    ),
    Fault("head bias dropped", "float64", "logits", "Dense(use_bias=False)", around=leaf("head/bias", zeroed)),
    Fault(
        "classes off by one",
        "float64",
        "logits",
        "a background class in front",
        around=tapped(shift_classes, lambda tap: tap == "logits"),
    ),
    Fault("mean token for class token", "float64", "logits", "global average pooling", around=head_reads(pooled)),
    Fault(
        "tanh before the head", "float64", "logits", "pre_logits of the first checkpoints", around=head_reads(np.tanh)
    ),
    # Rounding
    Fault(
        "float32 products in TF32",
        "float32",
        "patches",
        "jax_default_matmul_precision on an A100 or later",
        around=narrowed(np.float32, 11),
    ),
    Fault(
        "float32 products in bfloat16",
        "float32",
        "patches",
        "the default precision of a TPU",
        around=narrowed(np.float32, 8),
    ),
    Fault(
        "float32 blocks kept in bfloat16",
        "float32",
        "patches",
        "dtype=bfloat16 where only the products were meant",
        around=rounded_taps(np.float32, 8),
    ),
    Fault("bfloat16 products in 4 bits", "bfloat16", "patches", "float8_e4m3 kernels", around=narrowed(BFLOAT16, 4)),
    Fault(
        "bfloat16 blocks kept in 4 bits",
        "bfloat16",
        "patches",
        "float8_e4m3 activations",
        around=rounded_taps(BFLOAT16, 4),
    ),
    Fault(
        "float16 products in bfloat16",
        "float16",
        "patches",
        "one half precision for another",
        around=narrowed(np.float16, 8),
    ),
    Fault(
        "float16 blocks kept in bfloat16",
        "float16",
        "patches",
        "one half precision for another",
        around=rounded_taps(np.float16, 8),
    ),
    # Gradients
    Fault(
        "positions frozen",
        "gradients float64",
        "embedding/position_embedding",
        "a buffer for a parameter",
        around=gradient("embedding/position_embedding", np.zeros_like),
    ),
    Fault(
        "class token frozen",
        "gradients float64",
        "embedding/cls_token",
        "a buffer for a parameter",
        around=gradient("embedding/cls_token", np.zeros_like),
    ),
    Fault(
        "patch projection frozen",
        "gradients float64",
        "patches/conv/kernel",
        "stop_grad_conv1 of MoCo v3",
        around=gradient("patches/conv/kernel", np.zeros_like),
    ),
    Fault(
        "head gradient of the wrong sign",
        "gradients float64",
        "head/kernel",
        "a loss negated twice",
        around=gradient("head/kernel", np.negative),
    ),
    Fault(
        "norm gradient halved",
        "gradients float64",
        "encoder/00/norm1/scale",
        "a custom backward pass",
        around=gradient("encoder/00/norm1/scale", lambda g: g / 2),
    ),
    Fault(
        "gradient stopped at the embedding",
        "gradients float64",
        "embedding",
        "stop_gradient on frozen features",
        around={"gradients": stop_at_embedding},
    ),
    Fault(
        "float32 gradients in bfloat16",
        "gradients float32",
        "head/kernel",
        "gradients reduced in half precision",
        around=narrow_gradients(np.float32, 8),
    ),
    Fault(
        "bfloat16 gradients in 3 bits",
        "gradients bfloat16",
        "head/kernel",
        "float8_e5m2 gradients",
        around=narrow_gradients(BFLOAT16, 3),
    ),
)
