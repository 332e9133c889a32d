"""A side behind copies: it shares no memory with the other side, nor with what it is judged by.

A target could pass by writing its answer into the reference's taps, or other weights into the reference's own. A
read-only array does not forbid it, as PyTorch writes through the flag: each call gets copies, which are checked later.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from conformance.sides import TrainableSide

# The names of what each capability takes, in order.
PARAMETERS = {
    name: [*inspect.signature(method).parameters][1:]
    for name, method in inspect.getmembers(TrainableSide, inspect.isfunction)
    if not name.startswith("_")
}
STATE = "state"  # the optimizer's: opaque, and for the side alone to read and change


class Guarded:
    """Any side, with its capabilities and no others; arguments are lent as read-only copies, and answers copied.

    `changed` says what the side wrote into, each once: "taps wrote into weights 'head/bias'".
    """

    def __init__(self, side: Any) -> None:
        self.side = side
        self.changed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.side, name)
        if name not in PARAMETERS or not callable(attribute):
            return attribute
        return functools.partial(self._call, name, attribute)

    def _call(self, name: str, method: Callable[..., Any], *positional: Any, **named: Any) -> Any:
        given = dict(zip(PARAMETERS[name], positional, strict=False)) | named
        lent = {what: value if what == STATE else _copied(value, writeable=False) for what, value in given.items()}
        by_position = [lent[what] for what in PARAMETERS[name][: len(positional)]]
        answer = method(*by_position, **{what: lent[what] for what in named})
        for what, value in given.items():
            self._note(f"{name} wrote into {place}" for place in _changes(what, value, lent[what]))
        if STATE in given:
            weights, state = answer
            return _copied(weights, writeable=True), state
        return _copied(answer, writeable=True)

    def _note(self, changes: Iterator[str]) -> None:
        self.changed += [change for change in changes if change not in self.changed]


def _copied(value: Any, writeable: bool) -> Any:
    """Arrays as copies, and what holds them anew; anything else as it is."""
    match value:
        case np.ndarray():
            copy = np.array(value)
            copy.setflags(write=writeable)
            return copy
        case Mapping():
            return {key: _copied(item, writeable) for key, item in value.items()}
        case tuple() if hasattr(value, "_fields"):
            return type(value)(*(_copied(item, writeable) for item in value))
        case tuple() | list():
            return type(value)(_copied(item, writeable) for item in value)
    return value


def _changes(name: str, before: Any, after: Any) -> Iterator[str]:
    """Where what was lent is no longer, bit for bit, what it was."""
    match before:
        case np.ndarray():
            if not _same_bits(before, after):
                yield name
        case Mapping():
            for key, item in before.items():
                yield from _changes(f"{name} {key!r}", item, after.get(key))
        case tuple() | list():
            for index, item in enumerate(before):
                yield from _changes(f"{name} {index}", item, after[index])


def _same_bits(a: np.ndarray, b: Any) -> bool:
    """NaN included; read as whole numbers of the same size, since a NaN does not equal itself."""
    if not isinstance(b, np.ndarray) or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    bits = f"u{a.dtype.itemsize}"
    return np.array_equal(a.view(bits), b.view(bits))
