"""Where Flax and PyTorch meet: the same weights and images through both, compared block by block."""
