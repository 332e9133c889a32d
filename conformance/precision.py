"""The precisions a comparison runs in, as data, and a probe of what a matrix product really computed."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


def rounded(arrays: dict[str, np.ndarray], precision: str) -> dict[str, np.ndarray]:
    """The arrays in that precision: what both sides are given, and, widened again, what the truth is computed from."""
    return {name: a.astype(DTYPES[precision], copy=False) for name, a in arrays.items()}


def torch_device() -> str:
    """Where PyTorch runs: on a GPU if JAX does too, so that one option moves both sides."""
    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def to_torch(a: np.ndarray, device: str) -> torch.Tensor:
    """The same values and dtype in PyTorch, which cannot read NumPy's bfloat16 by itself."""
    a = np.array(a, order="C")
    if a.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(a).to(device)


def from_torch(tensor: torch.Tensor | None) -> np.ndarray:
    """The same values and dtype in NumPy."""
    assert tensor is not None
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def probe_matmul(device: str) -> dict[str, float]:
    """Relative error of a 256-term matrix product in float32, each side as the suite runs it.

    A few 1e-7 is float32; a few 1e-4 means TF32, a few 1e-3 bfloat16, whatever the settings claim.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((256, 256), dtype=np.float32) for _ in range(2))
    truth = a.astype(np.float64) @ b.astype(np.float64)
    with jax.default_matmul_precision("highest"):
        products = {
            "jax float32": np.asarray(jnp.asarray(a) @ jnp.asarray(b)),
            "torch float32": from_torch(to_torch(a, device) @ to_torch(b, device)),
        }
    return {name: float(np.sqrt(np.mean((p - truth) ** 2) / np.mean(truth**2))) for name, p in products.items()}
