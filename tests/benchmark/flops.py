"""What a ViT must compute, counted by hand: two operations for each multiplication and addition of a matrix product.

Softmax, norms, activations and residual sums are left out, as is usual where a share of the peak is quoted (MFU, model
FLOPs utilisation, arXiv:2204.02311, appendix B). A test holds the count against XLA's own.
"""

from vit_flax.config import ViTConfig


def forward_flops(config: ViTConfig) -> int:
    """Of one image."""
    c = config
    tokens, width = c.num_patches + 1, c.embed_dim or c.hidden_dim
    patches = c.num_patches * c.patch_size**2 * c.channels * width
    second_projection = 0 if c.embed_dim is None else c.num_patches * width * c.hidden_dim
    projections = tokens * 4 * c.hidden_dim**2  # query, key, value, output
    attention = 2 * tokens**2 * c.hidden_dim  # scores, weighted sum of the values
    mlp = tokens * 2 * c.hidden_dim * c.mlp_dim
    head = c.hidden_dim * c.num_classes
    return 2 * (patches + second_projection + c.num_layers * (projections + attention + mlp) + head)


def train_flops(config: ViTConfig) -> int:
    """Of one image: backwards, each product becomes two, one for each of its factors."""
    return 3 * forward_flops(config)
