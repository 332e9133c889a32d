"""A PyTorch model as a target, with the capabilities that are the model's own and no others."""

from conformance.torch_side import TorchSide


class TorchModel(TorchSide):
    """`TorchSide` brings the training rules of `reference/train.py` along. They are the reference's own: a target
    that borrowed them would be compared with itself, and pass. What is None here is reported as not verified.
    """

    loss = accuracy = clip = rates = update = train = crops = pixels = None  # type: ignore[assignment]
    epoch_rows = augment = noisy_losses = averages = evaluate = None  # type: ignore[assignment]
