"""What disks, networks and enemies do to files, by seed; and what a reader may do then: read the same, or refuse."""

import collections
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

EXTREMES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
LIMIT_SECONDS = 5.0  # a refusal takes milliseconds; a shared machine may stall
LIMIT_BYTES = 2**29  # what may be unpacked freely, 2**28, and a copy of it


def truncate(content: bytearray, rng: np.random.Generator) -> None:
    del content[rng.integers(len(content)) :]


def flip_a_bit(content: bytearray, rng: np.random.Generator) -> None:
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)


def flip_bytes(content: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(2, 20)):
        content[rng.integers(len(content))] = rng.integers(256)


def write_an_extreme(content: bytearray, rng: np.random.Generator) -> None:
    width = int(rng.choice((1, 2, 4, 8)))
    place = int(rng.integers(max(1, len(content) - width)))
    value = int(rng.choice(EXTREMES[:5])) if width == 1 else EXTREMES[rng.integers(len(EXTREMES))]
    content[place : place + width] = (value % 256**width).to_bytes(width, "little" if rng.integers(2) else "big")


def change_a_digit(content: bytearray, rng: np.random.Generator) -> None:
    """A size, an offset or a version, where a format writes them as text."""
    digits = [place for place, byte in enumerate(content) if byte in b"0123456789"]
    if digits:
        content[digits[rng.integers(len(digits))]] = b"0123456789"[rng.integers(10)]


def lengthen_a_number(content: bytearray, rng: np.random.Generator) -> None:
    digits = [place for place, byte in enumerate(content) if byte in b"0123456789"]
    place = digits[rng.integers(len(digits))] if digits else 0
    content[place:place] = b"9" * int(rng.integers(1, 20))


def _piece(content: bytearray, rng: np.random.Generator) -> slice:
    first, last = sorted(rng.integers(len(content) + 1, size=2).tolist())
    return slice(first, min(last, first + 64))


def cut_out(content: bytearray, rng: np.random.Generator) -> None:
    del content[_piece(content, rng)]


def blank(content: bytearray, rng: np.random.Generator) -> None:
    piece = _piece(content, rng)
    content[piece] = bytes(len(content[piece]))


def double(content: bytearray, rng: np.random.Generator) -> None:
    piece = _piece(content, rng)
    content[piece.stop : piece.stop] = content[piece]


def swap(content: bytearray, rng: np.random.Generator) -> None:
    one, other = _piece(content, rng), _piece(content, rng)
    content[one], content[other] = content[other], content[one]


def append(content: bytearray, rng: np.random.Generator) -> None:
    content += rng.bytes(int(rng.integers(1, 64)))


DAMAGES = (
    truncate, flip_a_bit, flip_bytes, write_an_extreme, change_a_digit, lengthen_a_number, cut_out, blank, double,
    swap, append,
)  # fmt: skip


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """This content with one of the `DAMAGES` done to it; in half of the cases near one of its ends.

    There most formats say what a file holds.
    """
    damage = DAMAGES[rng.integers(len(DAMAGES))]
    near = min(len(content), 400)
    match rng.integers(4):
        case 0:
            part = slice(0, near)
        case 1:
            part = slice(len(content) - near, len(content))
        case _:
            part = slice(0, len(content))
    changed = bytearray(content[part])
    damage(changed, rng)
    return content[: part.start] + bytes(changed) + (content[part.stop :] if damage is not truncate else b"")


@dataclasses.dataclass
class Tally:
    """What came of the files that were tried, and the most that one of them took."""

    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seconds: float = 0.0
    peak: int = 0  # bytes beyond those that were there before

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        tried = sum(self.outcomes.values())
        return f"{tried} tried: {counts}; at most {self.seconds:.2f} s and {self.peak / 2**20:.0f} MiB a file"

    def try_file(self, read: Callable[[], object], is_same: Callable[[object], bool], path: Path) -> str:
        """Read a file: "read unchanged", "changed" or "refused". Anything else is an `AssertionError`."""
        before, start = _begin_peak(), time.perf_counter()
        try:
            outcome = "read unchanged" if is_same(read()) else "changed"
        except ValueError as refusal:
            message = str(refusal)
            assert type(refusal).__name__ in ("WeightError", "DataError"), repr(refusal)
            assert str(path) in message, f"{message!r} does not name {path}"
            assert message.isprintable(), f"{message!r} is not one line"
            assert len(message) < 1000, message
            outcome = "refused"
        seconds, peak = time.perf_counter() - start, _memory("VmHWM") - before
        assert seconds < LIMIT_SECONDS, f"{seconds:.1f} s"
        assert peak < LIMIT_BYTES, f"{peak / 2**20:.0f} MiB"
        self.outcomes[outcome] += 1
        self.seconds, self.peak = max(self.seconds, seconds), max(self.peak, peak)
        return outcome


def _begin_peak() -> int:
    """The bytes in use; from now on Linux keeps their peak anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, value = line.split(":", 1)
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)
