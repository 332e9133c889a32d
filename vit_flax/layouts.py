"""Published weight layouts: one rule table each, read into and written from the canonical weight dict.

A rule says where a foreign array's numbers go: its key, the canonical leaves it holds, and one einops
pattern from its axes to theirs. Read backwards, the same table writes the layout. `{i}` counts layers.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from einops import rearrange

from vit_flax.config import ViTConfig
from vit_flax.weight_files import load
from vit_flax.weights import (
    Shaped,
    WeightError,
    Weights,
    canonical_shapes,
    check,
    check_keys,
    check_shape,
    quoted,
)

DENSE = "o i -> i o"
CONV = "o i h w -> h w i o"
VECTOR = "d -> d"
TOKENS = "b t d -> b t d"
FUSED_DENSE = "(leaf o) i -> leaf i o"  # query, key and value, one below the other
FUSED_VECTOR = "(leaf d) -> leaf d"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One foreign array and the canonical leaf or leaves it holds."""

    foreign: str
    canonical: str | tuple[str, ...]
    pattern: str

    def expand(self, layer: int) -> "Rule":
        leaves = tuple(name.format(i=layer) for name in self.leaves)
        return Rule(self.foreign.format(i=layer), leaves, self.pattern)

    @property
    def leaves(self) -> tuple[str, ...]:
        return (self.canonical,) if isinstance(self.canonical, str) else self.canonical

    @property
    def is_fused(self) -> bool:
        return self.pattern in (FUSED_DENSE, FUSED_VECTOR)

    def split(self, array: np.ndarray) -> list[np.ndarray]:
        """The canonical leaves held by this foreign array."""
        if self.is_fused:
            return list(rearrange(array, self.pattern, leaf=len(self.leaves)))
        return [rearrange(array, self.pattern)]

    def join(self, leaves: Sequence[np.ndarray]) -> np.ndarray:
        """The foreign array that holds these canonical leaves."""
        left, right = self.pattern.split(" -> ")
        return rearrange(np.stack(leaves) if self.is_fused else leaves[0], f"{right} -> {left}")

    def shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        """The foreign array's shape, if each of its canonical leaves has this one."""
        left, right = self.pattern.split(" -> ")
        # A number broadcast to a shape takes no memory, and has none to give away in being reshaped.
        stand_in = np.broadcast_to(np.float32(0), (len(self.leaves), *leaf) if self.is_fused else leaf)
        return rearrange(stand_in, f"{right} -> {left}").shape


@dataclasses.dataclass(frozen=True)
class Layout:
    """A named rule table. Both directions are fail-closed: every key is used exactly once, or it is an error."""

    name: str
    table: tuple[Rule, ...]

    def rules(self, config: ViTConfig) -> list[Rule]:
        """The rules that a ViT of this config needs. Raises `WeightError` if the layout cannot hold it."""
        shapes = canonical_shapes(config)
        expanded = []
        for rule in self.table:
            layers = range(config.num_own_layers) if "{i}" in rule.foreign else range(1)
            expanded += [rule.expand(layer) for layer in layers]
        needed = [rule for rule in expanded if any(leaf in shapes for leaf in rule.leaves)]
        leaves = [leaf for rule in needed for leaf in rule.leaves]
        _each_once(leaves, f"{self.name} layout: canonical leaf")
        _each_once([rule.foreign for rule in needed], f"{self.name} layout: key")
        check_keys(dict.fromkeys(leaves), shapes, f"{self.name} layout against this config")
        return needed

    def check(self, arrays: Mapping[str, Shaped], config: ViTConfig) -> None:
        """Raise `WeightError` unless the arrays have exactly this layout's keys and shapes for the config."""
        shapes = canonical_shapes(config)
        rules = self.rules(config)
        check_keys(arrays, {rule.foreign: None for rule in rules}, f"{self.name} weights")
        for rule in rules:
            expected = rule.shape(shapes[rule.leaves[0]])
            what = f"{self.name} weights: {rule.foreign!r}, read as {' and '.join(map(repr, rule.leaves))},"
            check_shape(arrays[rule.foreign], expected, what)

    def read(self, arrays: Mapping[str, np.ndarray], config: ViTConfig) -> Weights:
        """Canonical weights from this layout's arrays."""
        self.check(arrays, config)
        weights: Weights = {}
        for rule in self.rules(config):
            weights |= zip(rule.leaves, rule.split(arrays[rule.foreign]), strict=True)
        return {name: weights[name] for name in canonical_shapes(config)}

    def write(self, weights: Weights, config: ViTConfig) -> dict[str, np.ndarray]:
        """This layout's arrays from canonical weights."""
        check(weights, config)
        return {rule.foreign: rule.join([weights[leaf] for leaf in rule.leaves]) for rule in self.rules(config)}


def _each_once(names: Sequence[str], what: str) -> None:
    doubled = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if doubled:
        raise WeightError(f"{what} {doubled[0]!r} is used by more than one rule")


def load_any(path: str | Path, config: ViTConfig) -> Weights:
    """Canonical weights from a `.npz` or `.safetensors` file in any known layout, canonical included.

    Its names and shapes are held against the config before an array is read. Raises `WeightError` naming the file.
    """
    arrays = load(path, check=lambda stored: _fitting_layout(stored, config, str(path)))
    return read_any(arrays, config, str(path))


def read_any(arrays: Mapping[str, np.ndarray], config: ViTConfig, what: str) -> Weights:
    """Canonical weights from arrays in any known layout, canonical included.

    Raises `WeightError` that starts with `what` (a file name, say) and speaks of the layout that fits best.
    """
    layout = _fitting_layout(arrays, config, what)
    return layout.read(arrays, config) if layout else dict(arrays)


def _fitting_layout(arrays: Mapping[str, Shaped], config: ViTConfig, what: str) -> Layout | None:
    """The layout of which these are the keys and shapes for this config; None if they are canonical."""
    candidates = {"canonical": set(canonical_shapes(config))}
    for name, known in LAYOUTS.items():
        candidates[name] = {rule.expand(0).foreign for rule in known.table}
    best = max(candidates, key=lambda name: len(candidates[name].intersection(arrays)))
    if candidates[best].isdisjoint(arrays):
        first = quoted(next(iter(arrays), None))
        raise WeightError(f"{what}: no key of any known layout ({', '.join(candidates)}); its first key is {first}")
    layout = None if best == "canonical" else LAYOUTS[best]
    try:
        (layout.check if layout else check)(arrays, config)
    except WeightError as error:
        raise WeightError(f"{what}: {error}") from error
    return layout


def dense(foreign: str, canonical: str, pattern: str = DENSE) -> tuple[Rule, Rule]:
    """A dense layer or convolution, PyTorch's `weight` and `bias` against Flax's `kernel` and `bias`."""
    weight = Rule(f"{foreign}.weight", f"{canonical}/kernel", pattern)
    return weight, Rule(f"{foreign}.bias", f"{canonical}/bias", VECTOR)


def norm(foreign: str, canonical: str) -> tuple[Rule, Rule]:
    """A LayerNorm, PyTorch's `weight` and `bias` against Flax's `scale` and `bias`."""
    return Rule(f"{foreign}.weight", f"{canonical}/scale", VECTOR), Rule(f"{foreign}.bias", f"{canonical}/bias", VECTOR)


def fused_qkv(foreign: str, canonical: str) -> tuple[Rule, Rule]:
    """Query, key and value in one matrix; `foreign` ends where `weight` and `bias` begin."""
    kernels, biases = (
        tuple(f"{canonical}/{part}/{kind}" for part in ("query", "key", "value")) for kind in ("kernel", "bias")
    )
    return Rule(f"{foreign}weight", kernels, FUSED_DENSE), Rule(f"{foreign}bias", biases, FUSED_VECTOR)


# pytorch-image-models, timm/models/vision_transformer.py, class VisionTransformer.
TIMM = Layout(
    "timm",
    (
        *dense("patch_embed.proj", "patches/conv", CONV),
        Rule("cls_token", "embedding/cls_token", TOKENS),
        Rule("pos_embed", "embedding/position_embedding", TOKENS),
        *norm("blocks.{i}.norm1", "encoder/{i:02}/norm1"),
        *fused_qkv("blocks.{i}.attn.qkv.", "encoder/{i:02}/attention"),
        *dense("blocks.{i}.attn.proj", "encoder/{i:02}/attention/projection"),
        *norm("blocks.{i}.norm2", "encoder/{i:02}/norm2"),
        *dense("blocks.{i}.mlp.fc1", "encoder/{i:02}/mlp/fc1"),
        *dense("blocks.{i}.mlp.fc2", "encoder/{i:02}/mlp/fc2"),
        *norm("norm", "norm"),
        *dense("head", "head"),
    ),
)

_LAYER = "encoder.layers.encoder_layer_{i}"

# torchvision, torchvision/models/vision_transformer.py, class VisionTransformer.
TORCHVISION = Layout(
    "torchvision",
    (
        *dense("conv_proj", "patches/conv", CONV),
        Rule("class_token", "embedding/cls_token", TOKENS),
        Rule("encoder.pos_embedding", "embedding/position_embedding", TOKENS),
        *norm(f"{_LAYER}.ln_1", "encoder/{i:02}/norm1"),
        *fused_qkv(f"{_LAYER}.self_attention.in_proj_", "encoder/{i:02}/attention"),
        *dense(f"{_LAYER}.self_attention.out_proj", "encoder/{i:02}/attention/projection"),
        *norm(f"{_LAYER}.ln_2", "encoder/{i:02}/norm2"),
        *dense(f"{_LAYER}.mlp.0", "encoder/{i:02}/mlp/fc1"),
        *dense(f"{_LAYER}.mlp.3", "encoder/{i:02}/mlp/fc2"),
        *norm("encoder.ln", "norm"),
        *dense("heads.head", "head"),
    ),
)

LAYOUTS = {layout.name: layout for layout in (TIMM, TORCHVISION)}
