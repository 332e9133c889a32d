"""A ViT's blocks in plain NumPy, with the places at which implementations of them vary.

Some faults lie inside a block, where no edit of what goes in or comes out can reach. So the block is computed here, the
other way, and its tap replaced. Without a variation these are the blocks of `reference/model.py` (a test holds them
to it).
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from einops import rearrange

from conformance import tolerances
from conformance.faults import Around, Recomputed, Site, data_order, recomputed
from conformance.plain import ACTIVATIONS, Array, Change, dense, layer_norm, query_key_value, softmax
from conformance.sides import Taps
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

Norm = Callable[[Array, Array, Array, float], Array]  # (x, scale, bias, epsilon)


def unchanged(x: Array) -> Array:
    return x


def merged(heads: Array) -> Array:
    return rearrange(heads, "b h t k -> b t (h k)")


@dataclasses.dataclass(frozen=True)
class Variation:
    """A ViT that does one thing its own way; what is not named is as in the paper."""

    norm: Norm = layer_norm
    activation: Callable[[Change], Change] = lambda activation: activation  # in the place of the config's
    query_key: Change = unchanged  # of queries and of keys, (batch, head, token, feature)
    scores: Change = unchanged  # scaled, before softmax
    softmax: Change = softmax
    merge: Change = merged  # heads side by side again, (batch, head, token, feature) to (batch, token, features)
    residual_normed: bool = False  # a layer's branches are added to what their norms made
    middle: Callable[[Array, Array], Array] = lambda x, attention: x + attention
    out: Callable[[Array, Array, Array], Array] = lambda x, middle, mlp: middle + mlp  # x: what came into the layer
    parallel: bool = False  # the MLP reads what attention reads
    norm_after: bool = False  # each norm after its sum, not before its branch
    logits: Change = unchanged

    def touches(self, tap: str) -> bool:
        """Whether the block that ends at this tap may be another than the paper's."""
        parts = {
            "attention": ("norm", "query_key", "scores", "softmax", "merge", "norm_after"),
            "middle": ("middle", "residual_normed", "norm_after"),
            "mlp": ("norm", "activation", "parallel", "norm_after"),
            "norm": ("norm",),
            "logits": ("logits",),
        }
        last = tap.rpartition("/")[-1]
        mine = ("out", "residual_normed", "norm_after") if last.isdigit() else parts.get(last, ())
        return any(getattr(self, part) != getattr(PAPER, part) for part in mine)


PAPER = Variation()


def beside(one: Variation, other: Variation) -> Variation | None:
    """A ViT that does both things their own way; None where both vary the same."""
    changes = {}
    for field in dataclasses.fields(Variation):
        mine, theirs, papers = (getattr(v, field.name) for v in (one, other, PAPER))
        if mine != papers and theirs != papers:
            return None
        changes[field.name] = theirs if mine == papers else mine
    return Variation(**changes)


def block(variation: Variation, tap: str, taps: Taps, weights: Weights, config: ViTConfig) -> Array:
    """What the block that ends at this tap makes of the taps before it; at least in float32, then rounded."""
    dtype = taps["embedding"].dtype
    wide = np.promote_types(dtype, np.float32)
    before = {name: x.astype(wide, copy=False) for name, x in taps.items()}
    leaves = {name: x.astype(wide, copy=False) for name, x in weights.items()}
    return _Blocks(variation, config, before, leaves).made(tap).astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class _Blocks:
    v: Variation
    config: ViTConfig
    taps: Taps
    leaves: Weights

    def made(self, tap: str) -> Array:
        match tap.split("/"):
            case ["encoder", number]:
                return self._out(int(number))
            case ["encoder", number, "attention"]:
                return self._attention(int(number))
            case ["encoder", number, "middle"]:
                return self._sum(int(number))
            case ["encoder", number, "mlp"]:
                return self._mlp(int(number))
            case ["norm"]:
                return self._norm(self._input(self.config.num_layers), "norm")
        last = self.taps["norm"] if self.config.final_norm else self._input(self.config.num_layers)
        return self.v.logits(self._dense(last[:, 0], "head"))

    def _attention(self, layer: int) -> Array:
        v, c, scope = self.v, self.config, f"{self._own(layer)}/attention"
        x = self._input(layer) if v.norm_after else self._norm(self._input(layer), f"{self._own(layer)}/norm1")
        query, key, value = query_key_value(x, self.leaves, scope, c.num_heads)
        scores = v.query_key(query) @ v.query_key(key).swapaxes(-1, -2) / math.sqrt(c.head_dim)
        heads = v.softmax(v.scores(scores)) @ value
        return self._dense(v.merge(heads), f"{scope}/projection")

    def _sum(self, layer: int) -> Array:
        first_norm, x = f"{self._own(layer)}/norm1", self._input(layer)
        x = self._norm(x, first_norm) if self.v.residual_normed else x
        summed = self.v.middle(x, self.taps[f"encoder/{layer:02}/attention"])
        return self._norm(summed, first_norm) if self.v.norm_after else summed

    def _mlp(self, layer: int) -> Array:
        x = self._input(layer) if self.v.parallel else self._middle(layer)
        x = x if self.v.norm_after else self._norm(x, self._second_norm(layer))
        scope = f"{self._own(layer)}/mlp"
        activation = self.v.activation(ACTIVATIONS[self.config.activation])
        return self._dense(activation(self._dense(x, f"{scope}/fc1")), f"{scope}/fc2")

    def _out(self, layer: int) -> Array:
        middle = self._middle(layer)
        middle = self._norm(middle, self._second_norm(layer)) if self.v.residual_normed else middle
        out = self.v.out(self._input(layer), middle, self.taps[f"encoder/{layer:02}/mlp"])
        return self._norm(out, self._second_norm(layer)) if self.v.norm_after else out

    def _input(self, layer: int) -> Array:
        return self.taps[f"encoder/{layer - 1:02}" if layer else "embedding"]

    def _middle(self, layer: int) -> Array:
        return self.taps[f"encoder/{layer:02}/middle"]

    def _own(self, layer: int) -> str:
        """Whose leaves a layer has: the first one's, where all share them."""
        return "encoder/00" if self.config.share_layers else f"encoder/{layer:02}"

    def _second_norm(self, layer: int) -> str:
        return f"{self._own(layer)}/{'norm1' if self.config.share_norm else 'norm2'}"

    def _norm(self, x: Array, name: str) -> Array:
        return self.v.norm(x, self.leaves[f"{name}/scale"], self.leaves[f"{name}/bias"], self.config.norm_epsilon)

    def _dense(self, x: Array, name: str) -> Array:
        return dense(x, self.leaves, name)


@dataclasses.dataclass(frozen=True)
class Varied(Recomputed):
    """The change of `taps` that a variation makes."""

    variation: Variation


def varied(variation: Variation) -> dict[str, Around]:
    """A side that has this variation in it."""

    def change(site: Site) -> Array:
        return block(variation, site.tap, site.taps, site.weights, site.config)

    tap_by_tap = recomputed(change, variation.touches)["taps"]

    def around(method: Around, config: ViTConfig, weights: Weights, images: Array, **named: object) -> Taps:
        if named.get("draw") is None and named.get("given") is None and images.dtype == np.float64:
            taps = _at_once(variation, method, config, weights, images)
            if taps is not None:
                return taps
        return tap_by_tap(method, config, weights, images, **named)

    return {"taps": Varied(around, variation)}


def _at_once(variation: Variation, method: Around, config: ViTConfig, weights: Weights, images: Array) -> Taps | None:
    """All taps from two passes of the side, not one for each; None if the side has more faults than this one.

    The course is foreseen here; then the side is shown it, and must do the same wherever it does not vary.
    """
    found = method(weights, images)
    taps = {tap: found[tap] for tap in ("patches", "embedding")}
    for tap in data_order(config):
        if tap in found and tap not in taps:
            taps[tap] = block(variation, tap, taps, weights, config)
    own = method(weights, images, given=taps)
    for tap, foreseen in taps.items():
        if not variation.touches(tap):
            if np.abs(own[tap] - foreseen).max() > tolerances.FLOAT64 * np.abs(foreseen).max():
                return None
            taps[tap] = own[tap]
    return taps
