"""A side whose costly answers are kept: under every hypothesis, a diagnosis asks much of the same."""

import functools
import hashlib
import math
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.sides import Masks

# Costly, and the same whenever given the same.
REPLAYED = ("taps", "gradients", "train", "initial", "drawn", "crops", "averages", "evaluate")
# What a rung also asks again to see whether it is the same.
ASKED_AGAIN = ("augment", "epoch_rows", "noisy_losses")


class Remembered:
    """A side whose costly answers are kept: asked the same again, it does not compute.

    Where they take more than `most` bytes, those not asked for the longest are forgotten. One call at a time, as a
    model holds its weights while it computes: where a reference is compared with itself, two threads ask one side.
    """

    def __init__(self, side: Any, most: float = math.inf) -> None:
        self.side, self.most, self.size = side, most, 0
        self.answers: dict[bytes, Any] = {}  # the last asked for last
        self.lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.side, name)
        return functools.partial(self._ask, name, method) if callable(method) else method

    def _ask(self, name: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        assert not any(map(callable, arguments)), "a draw is given by name"
        with self.lock:
            if named.get("draw") is not None:
                return self._drawing(name, method, arguments, named)
            key = self._key(name, (name, arguments, named))
            return method(*arguments, **named) if key is None else self._kept(key, method, arguments, named)

    def _drawing(self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Fresh masks are known by their seed, and count what they were asked; of any other draw nothing is known."""
        draw = named["draw"]
        if not isinstance(draw, Masks) or draw.asked:
            return method(*arguments, **named)

        def counting() -> tuple[Any, list[Any]]:
            return method(*arguments, **named), list(draw.asked)

        key = self._key(name, (name, arguments, named | {"draw": ("masks", draw.seed)}))
        answer, asked = counting() if key is None else self._kept(key, counting, (), {})
        draw.asked[:] = asked
        return answer

    def _key(self, name: str, question: Any) -> bytes | None:
        return _digest(question) if name in REPLAYED else None

    def _kept(self, key: bytes, method: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if key in self.answers:
            answer = self.answers.pop(key)
        else:
            answer = method(*arguments, **named)
            self.size += _size(answer)
        self.answers[key] = answer
        while self.size > self.most and len(self.answers) > 1:
            self.size -= _size(self.answers.pop(next(iter(self.answers))))
        return answer


class Replayed(Remembered):
    """A side that gives the answers of its first time, whatever is asked how often, each time that it begins `anew`.

    A question that is asked again has an answer of its own: it may have been another.
    """

    def __init__(self, side: Any, most: float = math.inf) -> None:
        super().__init__(side, most)
        self.asked: Counter[bytes] = Counter()

    def anew(self) -> None:
        self.asked.clear()

    def _key(self, name: str, question: Any) -> bytes | None:
        if name not in ASKED_AGAIN:
            return super()._key(name, question)
        key = _digest(question)
        self.asked[key] += 1
        return key + self.asked[key].to_bytes(8)


def _size(answer: Any) -> int:
    """Bytes of the arrays in it."""
    match answer:
        case np.ndarray():
            return answer.nbytes
        case dict():
            return sum(map(_size, answer.values()))
        case tuple() | list():
            return sum(map(_size, answer))
    return 0


def _digest(value: Any) -> bytes:
    hashed = hashlib.blake2b()

    def add(value: Any) -> None:
        match value:
            case dict():
                for name in sorted(value):
                    hashed.update(name.encode())
                    add(value[name])
            case tuple() | list():
                hashed.update(f"{len(value)} of ".encode())
                for item in value:
                    add(item)
            case np.ndarray():
                hashed.update(f"{value.dtype}{value.shape}".encode())
                hashed.update(np.ascontiguousarray(value).tobytes())
            case _:
                hashed.update(f"{value!r},".encode())

    add(value)
    return hashed.digest()
