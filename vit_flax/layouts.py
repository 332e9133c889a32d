"""Published weight layouts: one rule table each, read into and written from the canonical weight dict.

A rule says where a foreign array's numbers go: its key, the canonical leaves it holds, and one einops
pattern from its axes to theirs. Read backwards, the same table writes the layout. `{i}` counts layers.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from einops import EinopsError, rearrange

from vit_flax.config import ViTConfig
from vit_flax.weights import WeightError, Weights, canonical_shapes, check, check_keys, check_shape

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

    def read(self, arrays: Mapping[str, np.ndarray], config: ViTConfig) -> Weights:
        """Canonical weights from this layout's arrays."""
        rules = self.rules(config)
        check_keys(arrays, {rule.foreign: None for rule in rules}, f"{self.name} weights")
        weights: Weights = {}
        for rule in rules:
            what = f"{self.name} weights: {rule.foreign!r}"
            try:
                leaves = rule.split(arrays[rule.foreign])
            except EinopsError as error:
                raise WeightError(
                    f"{what} has shape {arrays[rule.foreign].shape}, expected {rule.pattern!r}"
                ) from error
            for name, leaf in zip(rule.leaves, leaves, strict=True):
                check_shape(leaf, canonical_shapes(config)[name], f"{what} read as {name!r}")
                weights[name] = leaf
        return {name: weights[name] for name in canonical_shapes(config)}

    def write(self, weights: Weights, config: ViTConfig) -> dict[str, np.ndarray]:
        """This layout's arrays from canonical weights."""
        check(weights, config)
        return {rule.foreign: rule.join([weights[leaf] for leaf in rule.leaves]) for rule in self.rules(config)}


def _each_once(names: Sequence[str], what: str) -> None:
    doubled = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if doubled:
        raise WeightError(f"{what} {doubled[0]!r} is used by more than one rule")


def read_any(arrays: Mapping[str, np.ndarray], config: ViTConfig, what: str) -> Weights:
    """Canonical weights from arrays in any known layout, canonical included.

    Raises `WeightError` that starts with `what` (a file name, say) and speaks of the layout that fits best.
    """
    candidates = {"canonical": set(canonical_shapes(config))}
    for layout in LAYOUTS.values():
        candidates[layout.name] = {rule.expand(0).foreign for rule in layout.table}
    best = max(candidates, key=lambda name: len(candidates[name] & set(arrays)))
    if not candidates[best] & set(arrays):
        first = next(iter(arrays), None)
        raise WeightError(f"{what}: no key of any known layout ({', '.join(candidates)}); its first key is {first!r}")
    try:
        if best != "canonical":
            return LAYOUTS[best].read(arrays, config)
        check(dict(arrays), config)
        return dict(arrays)
    except WeightError as error:
        raise WeightError(f"{what}: {error}") from error


def _qkv(kind: str) -> tuple[str, ...]:
    return tuple(f"encoder/{{i:02}}/attention/{part}/{kind}" for part in ("query", "key", "value"))


# pytorch-image-models, timm/models/vision_transformer.py, class VisionTransformer.
TIMM = Layout(
    "timm",
    (
        Rule("cls_token", "embedding/cls_token", TOKENS),
        Rule("pos_embed", "embedding/position_embedding", TOKENS),
        Rule("patch_embed.proj.weight", "patches/conv/kernel", CONV),
        Rule("patch_embed.proj.bias", "patches/conv/bias", VECTOR),
        Rule("blocks.{i}.norm1.weight", "encoder/{i:02}/norm1/scale", VECTOR),
        Rule("blocks.{i}.norm1.bias", "encoder/{i:02}/norm1/bias", VECTOR),
        Rule("blocks.{i}.attn.qkv.weight", _qkv("kernel"), FUSED_DENSE),
        Rule("blocks.{i}.attn.qkv.bias", _qkv("bias"), FUSED_VECTOR),
        Rule("blocks.{i}.attn.proj.weight", "encoder/{i:02}/attention/projection/kernel", DENSE),
        Rule("blocks.{i}.attn.proj.bias", "encoder/{i:02}/attention/projection/bias", VECTOR),
        Rule("blocks.{i}.norm2.weight", "encoder/{i:02}/norm2/scale", VECTOR),
        Rule("blocks.{i}.norm2.bias", "encoder/{i:02}/norm2/bias", VECTOR),
        Rule("blocks.{i}.mlp.fc1.weight", "encoder/{i:02}/mlp/fc1/kernel", DENSE),
        Rule("blocks.{i}.mlp.fc1.bias", "encoder/{i:02}/mlp/fc1/bias", VECTOR),
        Rule("blocks.{i}.mlp.fc2.weight", "encoder/{i:02}/mlp/fc2/kernel", DENSE),
        Rule("blocks.{i}.mlp.fc2.bias", "encoder/{i:02}/mlp/fc2/bias", VECTOR),
        Rule("norm.weight", "norm/scale", VECTOR),
        Rule("norm.bias", "norm/bias", VECTOR),
        Rule("head.weight", "head/kernel", DENSE),
        Rule("head.bias", "head/bias", VECTOR),
    ),
)

_TV = "encoder.layers.encoder_layer_{i}"

# torchvision, torchvision/models/vision_transformer.py, class VisionTransformer.
TORCHVISION = Layout(
    "torchvision",
    (
        Rule("class_token", "embedding/cls_token", TOKENS),
        Rule("encoder.pos_embedding", "embedding/position_embedding", TOKENS),
        Rule("conv_proj.weight", "patches/conv/kernel", CONV),
        Rule("conv_proj.bias", "patches/conv/bias", VECTOR),
        Rule(f"{_TV}.ln_1.weight", "encoder/{i:02}/norm1/scale", VECTOR),
        Rule(f"{_TV}.ln_1.bias", "encoder/{i:02}/norm1/bias", VECTOR),
        Rule(f"{_TV}.self_attention.in_proj_weight", _qkv("kernel"), FUSED_DENSE),
        Rule(f"{_TV}.self_attention.in_proj_bias", _qkv("bias"), FUSED_VECTOR),
        Rule(f"{_TV}.self_attention.out_proj.weight", "encoder/{i:02}/attention/projection/kernel", DENSE),
        Rule(f"{_TV}.self_attention.out_proj.bias", "encoder/{i:02}/attention/projection/bias", VECTOR),
        Rule(f"{_TV}.ln_2.weight", "encoder/{i:02}/norm2/scale", VECTOR),
        Rule(f"{_TV}.ln_2.bias", "encoder/{i:02}/norm2/bias", VECTOR),
        Rule(f"{_TV}.mlp.0.weight", "encoder/{i:02}/mlp/fc1/kernel", DENSE),
        Rule(f"{_TV}.mlp.0.bias", "encoder/{i:02}/mlp/fc1/bias", VECTOR),
        Rule(f"{_TV}.mlp.3.weight", "encoder/{i:02}/mlp/fc2/kernel", DENSE),
        Rule(f"{_TV}.mlp.3.bias", "encoder/{i:02}/mlp/fc2/bias", VECTOR),
        Rule("encoder.ln.weight", "norm/scale", VECTOR),
        Rule("encoder.ln.bias", "norm/bias", VECTOR),
        Rule("heads.head.weight", "head/kernel", DENSE),
        Rule("heads.head.bias", "head/bias", VECTOR),
    ),
)

LAYOUTS = {layout.name: layout for layout in (TIMM, TORCHVISION)}
