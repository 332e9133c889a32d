"""For each known fault of the model, a port that has it in its code."""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from conformance.rungs import Target
from conformance.sides import Side
from reference.model import MLP, Patches, TransformerEncoder
from reference.model import MultiHeadSelfAttention as Attention
from tests.unit.ports import blocks
from tests.unit.ports.blocks import activation, attention, embedding, epsilon, head, layer, norm, of_attention
from tests.unit.ports.port import configured, course, forward_of, loaded, parts, swap, written
from vit_flax.config import ViTConfig


def in_bfloat16(model: nn.Module) -> None:
    for leaf in model.parameters():
        leaf.data = leaf.data.bfloat16().to(leaf.dtype)


def swap_norms(model: nn.Module) -> None:
    for part in parts(model, TransformerEncoder):
        swap(part.norm1, part.norm2)


def swap_last(model: nn.Module) -> None:
    last = model.encoder[-1].attention
    last.query.weight, last.key.weight = last.key.weight, last.query.weight


def blank_masked(config: ViTConfig) -> Side:
    """Attention masks patches of zeros as padding, unless there are no others."""
    hidden = []

    def look(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        size = config.patch_size
        patches = F.max_pool2d(inputs[0].abs().amax(dim=-1), size)
        seen = patches.flatten(1) > 0
        of_class = torch.zeros(len(seen), 1, dtype=torch.bool)
        hidden[:] = [torch.cat([of_class, ~seen & seen.any(dim=1, keepdim=True)], dim=1)[:, None, None]]

    side = attention(scores=lambda scores: scores.masked_fill(hidden[0], -torch.inf))(config)
    side.model.register_forward_pre_hook(look)
    return side


FORWARD: dict[str, Target] = {
    "blank patches masked": blank_masked,
    "a leaf forgotten": loaded(lambda model: nn.init.zeros_(model.head.bias)),
    "weights kept in bfloat16": loaded(in_bfloat16),
    "patch kernel sides swapped": forward_of(Patches, blocks.turned),
    "colours reversed": forward_of(Patches, blocks.from_bgr),
    "patches flattened channels first": forward_of(Patches, blocks.channels_first),
    "patches counted by column": forward_of(Patches, blocks.by_column),
    "patch bias dropped": blocks.without_bias("conv", Patches),
    "position grid transposed": loaded(blocks.positions_by_column),
    "class token without position": embedding(
        lambda self, cls, x: torch.cat([cls, x + self.position_embedding[:, 1:]], dim=1)
    ),
    "positions left out": embedding(lambda self, cls, x: torch.cat([cls, x], dim=1)),
    "class token zeroed": embedding(
        lambda self, cls, x: torch.cat([torch.zeros_like(cls), x], dim=1) + self.position_embedding
    ),
    "class token last": embedding(lambda self, cls, x: torch.cat([x, cls], dim=1) + self.position_embedding),
    "LayerNorm eps 1e-3": epsilon(1e-3),
    "LayerNorm eps 1e-5": epsilon(1e-5),
    "LayerNorm eps 1e-6": epsilon(1e-6),
    "LayerNorm eps 1e-12": epsilon(1e-12),
    "LayerNorm's fast variance": norm(blocks.fast),
    "unbiased variance in LayerNorm": norm(blocks.unbiased),
    "epsilon outside the root": norm(blocks.outside),
    "no epsilon added to the variance": norm(blocks.floor),
    "LayerNorm of the Annotated Transformer": norm(blocks.annotated),
    "RMSNorm": norm(blocks.rms),
    "LayerNorm in float32": forward_of(nn.LayerNorm, blocks.narrow_norm),
    "softmax in float32": attention(softmax=lambda x: torch.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)),
    "GELU in float32": activation(lambda x: F.gelu(x.float()).to(x.dtype)),
    "query and key swapped": of_attention(lambda part: swap(part.query, part.key)),
    "key and value swapped": of_attention(lambda part: swap(part.key, part.value)),
    "query and key swapped in the last layer": loaded(swap_last),
    "heads split in the wrong order": attention(split="(k h)"),
    "scores scaled by width": attention(scale=lambda self, head_dim: self.config.hidden_dim**-0.5),
    "scores not scaled": attention(scale=lambda self, head_dim: 1.0),
    "scores scaled twice": attention(scale=lambda self, head_dim: 1 / head_dim),
    "scores soft-capped at 50": attention(scores=lambda scores: torch.tanh(scores / 50) * 50),
    "softmax with a zero more": attention(softmax=blocks.softmax_one),
    "heads merged as they lie": attention(merge=lambda heads: heads.reshape(len(heads), heads.shape[2], -1)),
    "causal mask": attention(scores=blocks.causal),
    "queries and keys normalised": attention(query_key=lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-6)),
    "queries and keys normalised by root mean square": attention(query_key=lambda x: blocks.rms(x, 1e-6)),
    "attention bias dropped": blocks.without_bias("projection", Attention),
    "query bias dropped": blocks.without_bias("query", Attention),
    "value bias dropped": blocks.without_bias("value", Attention),
    "query, key and value biases dropped": of_attention(blocks.no_bias("query", "key", "value")),
    "query kernel not transposed": of_attention(lambda part: blocks.transpose(part.query)),
    "projection not transposed": of_attention(lambda part: blocks.transpose(part.projection)),
    "norm scale counted from one": forward_of(
        nn.LayerNorm, lambda self, x: F.layer_norm(x, self.normalized_shape, 1 + self.weight, self.bias, self.eps)
    ),
    "norms swapped": loaded(swap_norms),
    "layers off by one": blocks.from_other_layer(lambda i, n: (i + 1) % n),
    "layers tied": blocks.from_other_layer(lambda i, n: 0),
    "the other GELU": activation(functools.partial(F.gelu, approximate="tanh")),
    "QuickGELU": activation(lambda x: x * torch.sigmoid(1.702 * x)),
    "SiLU": activation(F.silu),
    "ReLU": activation(torch.relu),
    "no activation": activation(nn.Identity()),
    "erf by a polynomial": activation(blocks.polynomial_gelu),
    "GELU's constants in float32": activation(blocks.narrow_root_gelu),
    "one norm for both sub-layers": written(blocks.one_norm),
    "first MLP bias dropped": blocks.without_bias("fc1", MLP),
    "second MLP bias dropped": blocks.without_bias("fc2", MLP),
    "residual dropped": layer(blocks.no_residuals),
    "attention's residual dropped": layer(blocks.no_attention_residual),
    "residual taken after the norm": layer(blocks.normed_residuals),
    "the MLP's residual dropped": layer(blocks.no_mlp_residual),
    "attention not added": layer(blocks.old_residual),
    "attention and MLP side by side": layer(blocks.side_by_side),
    "norm after the sum": layer(blocks.norm_after),
    "final norm skipped": configured(final_norm=False),
    "final norm bias dropped": written(blocks.last_norm_without_bias),
    "head bias dropped": written(blocks.head_without_bias),
    "classes off by one": head(lambda logits: torch.roll(logits, 1, dims=-1)),
    "logits soft-capped at 30": head(lambda logits: torch.tanh(logits / 30) * 30),
    "softmax in the model": head(lambda logits: logits.softmax(dim=-1)),
    "mean token for class token": course(read=lambda x: x[:, 1:].mean(dim=1)),
    "mean of all tokens for class token": course(read=lambda x: x.mean(dim=1)),
    "last token for class token": course(read=lambda x: x[:, -1]),
    "tanh before the head": course(read=lambda x: torch.tanh(x[:, 0])),
    "last block skipped": written(blocks.last_block_skipped),
}
