"""The PyTorch side: the twin, and models that nobody here wrote."""
