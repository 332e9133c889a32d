"""What this device can do at best, measured: the peak of its matrix products, and of copying memory."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch

from conformance.precision import on_gpu
from tests.benchmark.clock import finish, timed

ROUNDS = 8


@functools.cache
def matmul_peak(dtype: str) -> float:
    """Operations a second in a large square product: the better of both frameworks."""
    n = 8192 if on_gpu() else 1536
    x = jnp.ones((n, n), dtype)
    product = jax.jit(lambda x: x @ x)
    found = [_best(lambda: product(x).block_until_ready())]
    t = torch.ones(n, n, dtype=getattr(torch, dtype), device="cuda" if on_gpu() else "cpu")
    found.append(_best(lambda: (t @ t, finish())))
    return 2 * n**3 / min(found)


@functools.cache
def copy_peak() -> float:
    """Bytes a second, read and written, of x + 1 on more than any cache holds."""
    x = jnp.zeros(2**30 if on_gpu() else 2**26, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / _best(lambda: add(x).block_until_ready())


def _best(run: Callable[[], Any]) -> float:
    run()
    return min(timed(run)[1] for _ in range(ROUNDS))
