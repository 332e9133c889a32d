"""A side whose costly answers are kept: under every hypothesis, a diagnosis asks much of the same."""

import functools
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

# Costly, and the same whenever given the same. Not what a rung asks twice to see whether it is the same: epochs, inputs
# and noisy losses.
REPLAYED = ("taps", "gradients", "train", "initial", "drawn", "crops", "averages", "evaluate")


class Remembered:
    """A side whose costly answers are kept: asked the same again, it does not compute.

    Of more than `most` answers, those not asked for the longest are forgotten: each takes as much memory as the taps of
    a whole model. One call at a time, as a model holds its weights while it computes: where a reference is compared
    with itself, two threads ask the same side.
    """

    def __init__(self, side: Any, most: int | None = None) -> None:
        self.side, self.most = side, most
        self.answers: dict[bytes, Any] = {}  # the last asked for last
        self.lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.side, name)
        return functools.partial(self._ask, name, method) if callable(method) else method

    def _ask(self, name: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        with self.lock:
            if name not in REPLAYED or named.get("draw") is not None:  # a draw also counts what it is asked
                return method(*arguments, **named)
            key = _digest((name, arguments, named))
            answer = self.answers.pop(key) if key in self.answers else method(*arguments, **named)
            self.answers[key] = answer
            if self.most is not None and len(self.answers) > self.most:
                del self.answers[next(iter(self.answers))]
            return answer


def _digest(value: Any) -> bytes:
    hashed = hashlib.blake2b()

    def add(value: Any) -> None:
        match value:
            case dict():
                for name in sorted(value):
                    hashed.update(name.encode())
                    add(value[name])
            case tuple() | list():
                for item in value:
                    add(item)
            case np.ndarray():
                hashed.update(f"{value.dtype}{value.shape}".encode())
                hashed.update(np.ascontiguousarray(value).tobytes())
            case _:
                hashed.update(repr(value).encode())

    add(value)
    return hashed.digest()
