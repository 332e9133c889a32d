"""equimo's `VisionTransformer` (JAX, Equinox) as a target.

    pytest conformance --target examples.equimo_target:build --reference twin:vit_ti16

Where its defaults differ from the paper's, they are set here: GELU (what it calls "gelu" is the tanh approximation),
LayerNorm's epsilon (1e-5), pooling (the mean of the patches) and register tokens (four). Its softmax cannot be set: it
runs in float32 whatever the model's precision, and the float64 rung refuses that. `widened` is the same code with this
one constant changed, in float64 alone, to show that nothing else differs.
"""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import equimo.core.layers.attention
import equinox as eqx
import jax
import jax.numpy as jnp
from equimo.utils import pool_sd
from equimo.vision.models import VisionTransformer

from conformance.sides import Recorder
from examples.jax_model import Arrays, JaxModel
from vit_flax.config import ViTConfig
from vit_flax.layouts import CONV, Layout, Rule, dense, fused_qkv, norm
from vit_flax.weights import check_keys, check_shape

_LAYER, _OURS = "blocks.0.blocks.{i}", "encoder/{i:02}"

# equimo/vision/models/vit.py, class VisionTransformer: the paths of its arrays.
LAYOUT = Layout(
    "equimo",
    (
        Rule("patch_embed.proj.weight", "patches/conv/kernel", CONV),
        Rule("patch_embed.proj.bias", "patches/conv/bias", "d 1 1 -> d"),
        Rule("cls_token", "embedding/cls_token", "t d -> 1 t d"),
        Rule("global_pos_embed.weight", "embedding/position_embedding", "t d -> 1 t d"),
        *norm(f"{_LAYER}.prenorm", f"{_OURS}/norm1"),
        *fused_qkv(f"{_LAYER}.attn.qkv.", f"{_OURS}/attention"),
        *dense(f"{_LAYER}.attn.proj", f"{_OURS}/attention/projection"),
        *norm(f"{_LAYER}.norm", f"{_OURS}/norm2"),
        *dense(f"{_LAYER}.mlp.fc1", f"{_OURS}/mlp/fc1"),
        *dense(f"{_LAYER}.mlp.fc2", f"{_OURS}/mlp/fc2"),
        *norm("norm", "norm"),
        *dense("head", "head"),
    ),
)


def build(config: ViTConfig, around: Callable[[], Any] = contextlib.nullcontext, **changes: Any) -> JaxModel:
    """equimo's ViT of that config, run in the context `around`; `changes` replace what equimo is called with."""
    model = _model(config, **changes)

    def forward(arrays: Arrays, images: jax.Array, given: Any, recorder: type[Recorder]) -> Any:
        def one(image: jax.Array, given: Any) -> Any:
            tap = recorder(given)
            _apply(_filled(model, arrays), image, tap)
            return tap.taps

        return jax.vmap(one)(images, given)  # equimo takes one image at a time

    return JaxModel(forward, LAYOUT, config, around)


def widened(config: ViTConfig) -> JaxModel:
    return build(config, around=wide_softmax)


def _model(config: ViTConfig, **changes: Any) -> VisionTransformer:
    c = config
    if len(set(c.image_size)) > 1:
        raise ValueError("equimo's VisionTransformer takes square images only, not {}x{}".format(*c.image_size))
    options: dict[str, Any] = dict(
        img_size=c.image_size[0],
        in_channels=c.channels,
        dim=c.hidden_dim,
        patch_size=c.patch_size,
        num_heads=c.num_heads,
        depths=[c.num_layers],
        mlp_ratio=c.mlp_dim / c.hidden_dim,
        num_classes=c.num_classes,
        act_layer={"gelu": "exactgelu", "gelu_tanh": "gelu"}[c.activation],
        eps=c.norm_epsilon,
        global_pool="token",
        reg_tokens=0,
    )
    return VisionTransformer(**options | changes, key=jax.random.key(0))


def _filled(model: VisionTransformer, arrays: Arrays) -> VisionTransformer:
    """The model with these arrays in place of its own: all of them, or it is an error."""
    own, rest = eqx.partition(model, eqx.is_array)
    paths, tree = jax.tree_util.tree_flatten_with_path(own)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in paths}
    check_keys(arrays, shapes, "equimo's arrays")
    for name, shape in shapes.items():
        check_shape(arrays[name], shape, f"equimo's array {name!r}")
    return eqx.combine(jax.tree.unflatten(tree, [arrays[name] for name in shapes]), rest)


class Tapped(eqx.Module):
    """A layer whose output goes through a tap: what a forward hook is in PyTorch."""

    layer: Any
    name: str = eqx.field(static=True)
    tap: Recorder = eqx.field(static=True)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.tap(self.name, self.layer(*args, **options))


def _tapped(model: VisionTransformer, tap: Recorder) -> VisionTransformer:
    """The same model with its layers tapped."""
    blocks = tuple(_tapped_block(block, f"encoder/{i:02}", tap) for i, block in enumerate(model.blocks[0].blocks))
    layers = Tapped(model.patch_embed, "patches", tap), Tapped(model.global_pos_embed, "embedding", tap), blocks
    return eqx.tree_at(lambda m: (m.patch_embed, m.global_pos_embed, m.blocks[0].blocks), model, layers)


def _tapped_block(block: eqx.Module, name: str, tap: Recorder) -> Tapped:
    parts = (
        Tapped(block.attn, f"{name}/attention", tap),
        Tapped(block.drop_path1, f"{name}/middle", tap),  # which adds the branch, too
        Tapped(block.mlp, f"{name}/mlp", tap),
    )
    return Tapped(eqx.tree_at(lambda b: (b.attn, b.drop_path1, b.mlp), block, parts), name, tap)


def _apply(model: VisionTransformer, image: jax.Array, tap: Recorder) -> None:
    """Its own `__call__`, with taps.

    What follows `features` is repeated from there: the final norm is called with one token at a time, where a tap
    would see no more than that.
    """
    x = _tapped(model, tap).features(jnp.moveaxis(image, -1, 0), inference=True)
    x = tap("norm", jax.vmap(model.norm)(x))
    x = pool_sd(x, pool_type=model.global_pool, num_prefix_tokens=model.num_prefix_tokens)
    tap("logits", model.head(x))


@contextlib.contextmanager
def wide_softmax() -> Iterator[None]:
    """`jnp.float32`, as equimo's attention says it, is float64 where that is what JAX computes in."""
    widest = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    renamed = types.SimpleNamespace(**vars(jnp) | {"float32": widest})
    with mock.patch.object(equimo.core.layers.attention, "jnp", renamed):
        yield
