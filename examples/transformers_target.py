"""Hugging Face's `ViTForImageClassification` as a target, built without a download.

    pytest conformance --target examples.transformers_target:build --reference twin:vit_ti16

Where its defaults differ from the paper's, they are set here: LayerNorm's epsilon (1e-12 by default), and the
attention, whose "eager" kind computes softmax in float32 whatever the model's precision, which the float64 rung
refuses. So "sdpa" it is, PyTorch's fused kernel.
It drops nothing between the two layers of the MLP and has no stochastic depth, so there are no draws to compare.
"""

from typing import Any

import transformers

from conformance.precision import torch_device
from examples.torch_model import TorchModel
from reference.third_party import Hooked, InputPoint, Point, Points
from vit_flax.config import ViTConfig
from vit_flax.layouts import CONV, TOKENS, Layout, Rule, dense, norm

_LAYER, _OURS = "vit.layers.{i}", "encoder/{i:02}"

# transformers/models/vit/modeling_vit.py, class ViTForImageClassification.
LAYOUT = Layout(
    "transformers",
    (
        *dense("vit.embeddings.patch_embeddings.projection", "patches/conv", CONV),
        Rule("vit.embeddings.cls_token", "embedding/cls_token", TOKENS),
        Rule("vit.embeddings.position_embeddings", "embedding/position_embedding", TOKENS),
        *norm(f"{_LAYER}.layernorm_before", f"{_OURS}/norm1"),
        *dense(f"{_LAYER}.attention.q_proj", f"{_OURS}/attention/query"),
        *dense(f"{_LAYER}.attention.k_proj", f"{_OURS}/attention/key"),
        *dense(f"{_LAYER}.attention.v_proj", f"{_OURS}/attention/value"),
        *dense(f"{_LAYER}.attention.o_proj", f"{_OURS}/attention/projection"),
        *norm(f"{_LAYER}.layernorm_after", f"{_OURS}/norm2"),
        *dense(f"{_LAYER}.mlp.fc1", f"{_OURS}/mlp/fc1"),
        *dense(f"{_LAYER}.mlp.fc2", f"{_OURS}/mlp/fc2"),
        *norm("vit.layernorm", "norm"),
        *dense("classifier", "head"),
    ),
)


class TransformersModel(TorchModel):
    """Without draws of its own: of the config's kinds of dropout it lacks two."""

    drawn = None  # type: ignore[assignment]


def build(config: ViTConfig, layout: Layout = LAYOUT, **changes: Any) -> TransformersModel:
    """Hugging Face's ViT of that config; `changes` replace what its own config is made from."""
    c = config
    options: dict[str, Any] = dict(
        image_size=c.image_size,
        patch_size=c.patch_size,
        num_channels=c.channels,
        num_labels=c.num_classes,
        hidden_size=c.hidden_dim,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        intermediate_size=c.mlp_dim,
        hidden_act={"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}[c.activation],
        layer_norm_eps=c.norm_epsilon,
        attn_implementation="sdpa",
    )
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**options | changes))
    hooked = Hooked(model, _points(model))
    return TransformersModel(hooked, model, layout, config, torch_device())


def _points(model: Any) -> Points:
    vit = model.vit
    points: Points = {"patches": Point(vit.embeddings.patch_embeddings), "embedding": Point(vit.embeddings)}
    for i, layer in enumerate(vit.layers):
        points[f"encoder/{i:02}/attention"] = Point(
            layer.attention, read=lambda out: out[0], write=lambda x, out: (x, *out[1:])
        )
        points[f"encoder/{i:02}/middle"] = InputPoint(layer.layernorm_after)
        points[f"encoder/{i:02}/mlp"] = Point(layer.mlp)
        points[f"encoder/{i:02}"] = Point(layer)
    return points | {"norm": Point(vit.layernorm), "logits": Point(model.classifier)}
