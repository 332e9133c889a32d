"""Weights across the border: canonical dict to a PyTorch model and back, through one rule table each."""

from torch import nn

from conformance.precision import from_torch, to_torch
from vit_flax.config import ViTConfig
from vit_flax.layouts import CONV, DENSE, TIMM, TOKENS, TORCHVISION, VECTOR, Layout, Rule
from vit_flax.weights import Weights


def _pair(foreign: str, canonical: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{foreign}.weight", f"{canonical}/kernel", DENSE),
        Rule(f"{foreign}.bias", f"{canonical}/bias", VECTOR),
    )


def _norm(foreign: str, canonical: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{foreign}.weight", f"{canonical}/scale", VECTOR),
        Rule(f"{foreign}.bias", f"{canonical}/bias", VECTOR),
    )


# reference/model.py
TWIN = Layout(
    "twin",
    (
        Rule("patches.conv.weight", "patches/conv/kernel", CONV),
        Rule("patches.conv.bias", "patches/conv/bias", VECTOR),
        Rule("embedding.cls_token", "embedding/cls_token", TOKENS),
        Rule("embedding.position_embedding", "embedding/position_embedding", TOKENS),
        *_pair("embedding.projection", "embedding/projection"),
        *_norm("encoder.{i}.norm1", "encoder/{i:02}/norm1"),
        *_pair("encoder.{i}.attention.query", "encoder/{i:02}/attention/query"),
        *_pair("encoder.{i}.attention.key", "encoder/{i:02}/attention/key"),
        *_pair("encoder.{i}.attention.value", "encoder/{i:02}/attention/value"),
        *_pair("encoder.{i}.attention.projection", "encoder/{i:02}/attention/projection"),
        *_norm("encoder.{i}.norm2", "encoder/{i:02}/norm2"),
        *_pair("encoder.{i}.mlp.fc1", "encoder/{i:02}/mlp/fc1"),
        *_pair("encoder.{i}.mlp.fc2", "encoder/{i:02}/mlp/fc2"),
        *_norm("norm", "norm"),
        *_pair("head", "head"),
    ),
)

LAYOUTS = {layout.name: layout for layout in (TWIN, TIMM, TORCHVISION)}


def load_into(model: nn.Module, weights: Weights, layout: Layout, config: ViTConfig) -> None:
    """Put canonical weights into a PyTorch model. Every one of its parameters is set, or it is an error.

    The tensors take the model's place (`assign`): copied into it, they would be rounded to its dtype in silence.
    """
    state = {key: to_torch(array, "cpu") for key, array in layout.write(weights, config).items()}
    model.load_state_dict(state, strict=True, assign=True)


def read_from(model: nn.Module, layout: Layout, config: ViTConfig) -> Weights:
    """The canonical weights of a PyTorch model."""
    return layout.read({key: from_torch(tensor) for key, tensor in model.state_dict().items()}, config)
