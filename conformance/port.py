"""Weights across the border: canonical dict to a PyTorch model and back, through one rule table each."""

from torch import nn

from conformance.precision import from_torch, to_torch
from vit_flax.config import ViTConfig
from vit_flax.layouts import CONV, TOKENS, Layout, Rule, dense, norm
from vit_flax.weights import Weights

# reference/model.py
TWIN = Layout(
    "twin",
    (
        *dense("patches.conv", "patches/conv", CONV),
        *dense("embedding.projection", "embedding/projection"),
        Rule("embedding.cls_token", "embedding/cls_token", TOKENS),
        Rule("embedding.position_embedding", "embedding/position_embedding", TOKENS),
        *norm("encoder.{i}.norm1", "encoder/{i:02}/norm1"),
        *dense("encoder.{i}.attention.query", "encoder/{i:02}/attention/query"),
        *dense("encoder.{i}.attention.key", "encoder/{i:02}/attention/key"),
        *dense("encoder.{i}.attention.value", "encoder/{i:02}/attention/value"),
        *dense("encoder.{i}.attention.projection", "encoder/{i:02}/attention/projection"),
        *norm("encoder.{i}.norm2", "encoder/{i:02}/norm2"),
        *dense("encoder.{i}.mlp.fc1", "encoder/{i:02}/mlp/fc1"),
        *dense("encoder.{i}.mlp.fc2", "encoder/{i:02}/mlp/fc2"),
        *norm("norm", "norm"),
        *dense("head", "head"),
    ),
)


def load_into(model: nn.Module, weights: Weights, layout: Layout, config: ViTConfig) -> None:
    """Put canonical weights into a PyTorch model. Every one of its parameters is set, or it is an error.

    The tensors take the model's place (`assign`): copied into it, they would be rounded to its dtype in silence.
    """
    state = {key: to_torch(array, "cpu") for key, array in layout.write(weights, config).items()}
    model.load_state_dict(state, strict=True, assign=True)


def read_from(model: nn.Module, layout: Layout, config: ViTConfig) -> Weights:
    """The canonical weights of a PyTorch model."""
    return layout.read({key: from_torch(tensor) for key, tensor in model.state_dict().items()}, config)
