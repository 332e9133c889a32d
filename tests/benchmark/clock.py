"""Seconds of work that is done when it is finished, not when it has been asked for."""

import time
from collections.abc import Callable
from typing import Any

import torch

from conformance.precision import on_gpu


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """What was made, and how many seconds that took."""
    start = time.perf_counter()
    made = make()
    return made, time.perf_counter() - start


def finish() -> None:
    """Wait for what PyTorch has asked of a GPU."""
    if on_gpu():
        torch.cuda.synchronize()
