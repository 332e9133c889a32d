"""The precisions a comparison runs in, as data, and a probe of what a matrix product really computed."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float32 default": np.dtype(np.float32),  # as the frameworks compute unless told otherwise: in TF32 on GPUs
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}

_products = "highest"


@contextlib.contextmanager
def regime(precision: str) -> Iterator[None]:
    """Both frameworks form float32 products as that precision has them: in full, but for the default regime.

    For the whole process, as PyTorch's switches are, and as sides may run in threads of their own.
    """
    global _products
    before, torch_before = _products, torch.get_float32_matmul_precision()
    _products = "default" if precision.endswith("default") else "highest"
    torch.set_float32_matmul_precision("high" if _products == "default" else "highest")
    try:
        with torch_sums():
            yield
    finally:
        _products = before
        torch.set_float32_matmul_precision(torch_before)


@contextlib.contextmanager
def torch_sums() -> Iterator[None]:
    """PyTorch's convolutions as the regime has products, and half precisions summed in float32.

    On a GPU, PyTorch lets convolutions be in TF32, and sums of half precision products be rounded on the way, unless
    told otherwise. What the reference rounds is granted to the target, so the reference is told otherwise.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    wanted: tuple[tuple[Any, str, bool], ...] = (
        (cudnn, "allow_tf32", products() == "default"),
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
    )
    before = [getattr(module, switch) for module, switch, _ in wanted]
    for module, switch, value in wanted:
        setattr(module, switch, value)
    try:
        yield
    finally:
        for (module, switch, _), value in zip(wanted, before, strict=True):
            setattr(module, switch, value)


def products() -> str:
    """What JAX calls the precision of float32 products now: highest or default."""
    return _products


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def rounded(arrays: dict[str, np.ndarray], precision: str) -> dict[str, np.ndarray]:
    """The arrays in that precision: what both sides are given, and, widened again, what the truth is computed from."""
    return {name: rounded_array(a, precision) for name, a in arrays.items()}


def rounded_array(a: np.ndarray, precision: str) -> np.ndarray:
    return a.astype(DTYPES[precision], copy=False)


def torch_device() -> str:
    """Where PyTorch runs: on a GPU if JAX does too, so that one option moves both sides."""
    return "cuda" if on_gpu() and torch.cuda.is_available() else "cpu"


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
    """Relative error of a 256-term matrix product in float32, each side as the suite runs it and as it is by default.

    A few 1e-7 is float32; a few 1e-4 means TF32, a few 1e-3 bfloat16, whatever the settings claim.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((256, 256), dtype=np.float32) for _ in range(2))
    truth = a.astype(np.float64) @ b.astype(np.float64)
    found: dict[str, np.ndarray] = {}
    for name, precision in (("float32", "float32"), ("default float32", "float32 default")):
        with regime(precision), jax.default_matmul_precision(products()):
            ours, theirs = jnp.asarray(a) @ jnp.asarray(b), to_torch(a, device) @ to_torch(b, device)
            found |= {f"jax {name}": np.asarray(ours), f"torch {name}": from_torch(theirs)}
    return {name: float(np.sqrt(np.mean((p - truth) ** 2) / np.mean(truth**2))) for name, p in found.items()}
