"""Where things go in the pictures of a report: grids of rung and block, curves of error by tap and by training step.

Everything here is computed from rungs of one case of the report and knows nothing of HTML: the template draws it.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

MODES = ("alone", "free")
ROLES = {"candidate": "error", "reference": "reference_error"}
MARKS = {"over": "×", "far-over": "×", "broken": "!"}

# The columns of a grid, from the images on. A norm goes with what it feeds, and the head is seen at the logits.
BLOCKS = ("images", "patches", "embedding", "encoder", "norm", "logits")
PARTS = ("attention", "middle", "mlp", "")
HOMES = {"norm1": "attention", "norm2": "mlp", "head": "logits"}
MOST = 240  # columns, or taps on a curve, that are drawn: twice a deep model's; the rest is counted
LABELLED = 5  # steps: every fifth, and there is room for all taps

WIDTH, HEIGHT = 840, 348
LEFT, RIGHT, TOP, BOTTOM = 54, 740, 14, 262  # the plot inside the picture; labels live in the margins
LABEL_HEIGHT = 14


@dataclass(frozen=True)
class Group:
    """Neighbouring taps of one encoder layer, or a tap of its own, which has no parts."""

    name: str
    parts: tuple[str, ...]
    x: float


@dataclass(frozen=True)
class Cell:
    style: str
    mark: str
    title: str


@dataclass(frozen=True)
class Row:
    rung: str
    mode: str
    diffs: list[dict[str, Any]]
    cells: list[Cell | None]


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    failed: bool
    title: str


@dataclass(frozen=True)
class Line:
    """`role` is whose error it is: the candidate's, or the reference's own, which is the rounding floor."""

    rung: str
    role: str
    path: str
    points: list[Point]


@dataclass(frozen=True)
class Curve:
    groups: list[Group]
    ticks: list[tuple[float, int | None]]
    lines: list[Line]
    labels: list[tuple[str, float]]
    limit_y: float | None
    left_out: int  # taps that are not drawn


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis. Zero has no logarithm: it gets a place of its own one decade below the rest."""

    low: int
    high: int
    has_zero: bool

    def y(self, error: float) -> float:
        bottom = self.low - self.has_zero
        exponent = math.log10(error) if error > 0 else bottom
        return round(BOTTOM - (BOTTOM - TOP) * (exponent - bottom) / (self.high - bottom), 1)

    def ticks(self) -> list[tuple[float, int | None]]:
        """Height and power of ten of each tick; no power for zero."""
        step = math.ceil((self.high - self.low) / 8)
        powers = [(self.y(10.0**power), power) for power in range(self.high, self.low - 1, -step)]
        return [*powers, (self.y(0), None)] if self.has_zero else [*powers]


def data_order(rungs: Iterable[dict[str, Any]]) -> list[str]:
    """Every tap once, in the order in which the diffs first name it."""
    return list(dict.fromkeys(diff["tap"] for rung in rungs for diff in rung["diffs"]))


def block(tap: str) -> str:
    """The block that a tap or a parameter is part of.

    >>> block("encoder/03/norm2/scale")
    'encoder/03/mlp'
    """
    parts = tap.split("/")
    return "/".join(HOMES.get(part, part) for part in parts[: 3 if parts[0] == "encoder" else 1])


def blocks(rungs: Iterable[dict[str, Any]]) -> list[str]:
    """Every block once, from the images to the logits whichever way the diffs run; strange ones last."""

    def place(name: str) -> tuple[int, str, int]:
        first, _, rest = name.partition("/")
        layer, _, part = rest.partition("/")
        return _index(BLOCKS, first), layer, _index(PARTS, part)

    return sorted(dict.fromkeys(map(block, data_order(rungs))), key=place)


def drawn(rungs: Iterable[dict[str, Any]]) -> list[str]:
    """The blocks that have a column: all, unless there are more than a page can show."""
    return blocks(rungs)[:MOST]


def left_out(rungs: Sequence[dict[str, Any]]) -> str | None:
    """What to say of the blocks that have no column; None where every block has one."""
    names = set(blocks(rungs)[MOST:])
    failing = {block(d["tap"]) for rung in rungs for d in rung["diffs"] if d["status"] == "fail"} & names
    return f"{len(names):,} more blocks are not drawn; {len(failing):,} of them fail" if names else None


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def share(diff: dict[str, Any]) -> float:
    """The error as a share of its limit: of no limit, and where nothing could be measured, it is infinite."""
    if diff["error"] is None or diff["problem"] is not None:
        return math.inf
    return 0.0 if diff["error"] == 0 else diff["error"] / diff["limit"] if diff["limit"] else math.inf


def worst(diffs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What fails before what passes, then what is nearest to its limit or furthest beyond."""
    return max(diffs, key=lambda diff: (diff["status"] == "fail", share(diff)))


def tap_xs(count: int) -> list[float]:
    """`count` places, evenly spread over the plot."""
    pitch = (RIGHT - LEFT) / max(count, 1)
    return [round(LEFT + pitch * (i + 0.5), 1) for i in range(count)]


def groups(taps: Sequence[str]) -> list[Group]:
    """Columns under their headings: `encoder/00/mlp` is part `mlp` of `00`, `encoder/00` its part `output`."""

    def split(column: tuple[float, str]) -> tuple[str, str]:
        layer = re.fullmatch(r"encoder/(\d+)(?:/(.+))?", column[1])
        return (layer[1], layer[2] or "output") if layer else (column[1], "")

    found = []
    for name, columns in groupby(zip(tap_xs(len(taps)), taps, strict=True), key=lambda column: split(column)[0]):
        members = list(columns)
        x = sum(x for x, _ in members) / len(members)
        found.append(Group(name, tuple(filter(None, (split(member)[1] for member in members))), round(x, 1)))
    return found


def style(diff: dict[str, Any]) -> str:
    """How far below or above its limit, in six steps. The status decides pass or fail, the numbers only the shade."""
    if diff["problem"] is not None or diff["error"] is None:
        return "broken"
    if diff["limit"] is None:
        return "over" if diff["status"] == "fail" else "unjudged"
    of_limit = share(diff)
    if diff["status"] == "fail":
        return "over" if of_limit <= 1000 else "far-over"
    return next((name for name, most in (("far", 0.01), ("well", 0.1), ("half", 0.5)) if of_limit <= most), "near")


def describe(rung: str, diff: dict[str, Any]) -> str:
    """One comparison in one line: the tooltip."""
    numbers = (("error", "error"), ("reference_error", "reference's own"), ("limit", "limit"))
    said = [f"{word} {diff[key]:.1e}" for key, word in numbers if diff[key] is not None]
    ratio = [] if diff["ratio"] is None else [f"ratio {diff['ratio']:.2f}"]
    problem = [] if diff["problem"] is None else [diff["problem"]]
    return f"{diff['tap']}, {rung} {diff['mode']}: " + ", ".join([diff["status"], *problem, *said, *ratio])


def grid(rungs: Sequence[dict[str, Any]]) -> list[Row]:
    """One row for each rung and mode that was compared, one cell per block, its worst: none where there is no diff."""
    columns, rows = drawn(rungs), []
    for rung in rungs:
        for mode in MODES:
            diffs = [diff for diff in rung["diffs"] if diff["mode"] == mode]
            at: dict[str, list[dict[str, Any]]] = {}
            for diff in diffs:
                at.setdefault(block(diff["tap"]), []).append(diff)
            if diffs:
                cells = [_cell(rung["rung"], at[name]) if name in at else None for name in columns]
                rows.append(Row(rung["rung"], mode, diffs, cells))
    return rows


def _cell(rung: str, diffs: list[dict[str, Any]]) -> Cell:
    diff = worst(diffs)
    name = style(diff)
    among = f"worst of {len(diffs)}: " if len(diffs) > 1 else ""
    return Cell(name, MARKS.get(name, ""), among + describe(rung, diff))


def curve(rungs: Sequence[dict[str, Any]], labelled: int = 1) -> Curve | None:
    """Error of the free-running model, tap by tap. None where nothing was measured."""
    every = data_order(rungs)
    taps = every[:MOST]
    free = {rung["rung"]: {d["tap"]: d for d in rung["diffs"] if d["mode"] == "free"} for rung in rungs}
    diffs = [diff for by_tap in free.values() for diff in by_tap.values()]
    errors = [diff[key] for diff in diffs for key in ROLES.values() if diff[key] is not None]
    if not errors:
        return None
    # In float64 the limit is one and the same; elsewhere it is each tap's own.
    limit = next((diff["limit"] for diff in diffs if diff["limit"] and diff["reference_error"] is None), None)
    scale = axis([*errors, limit] if limit else errors)
    lines = [_line(rung, role, by_tap, taps, scale) for rung, by_tap in free.items() for role in ROLES]
    lines = [line for line in lines if line.points]
    named = [line for line in lines if line.role == "candidate"]
    heights = spread([line.points[-1].y for line in named])
    labels = [(line.rung, y) for line, y in zip(named, heights, strict=True)]
    headings = groups(taps)[labelled - 1 :: labelled]
    limit_y = scale.y(limit) if limit else None
    return Curve(headings, scale.ticks(), lines, labels, limit_y, left_out=len(every) - len(taps))


def steps(rungs: Iterable[dict[str, Any]]) -> Curve | None:
    """Error of training runs, step by step: a line for the losses, one for the parameters."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for rung in rungs:
        precision = rung["rung"].removeprefix("trajectory")
        for diff in rung["diffs"]:
            step, _, quantity = diff["tap"].partition("/")
            run, _, number = step.rpartition("step ")  # SGD's steps are a run of their own
            lines.setdefault(run + quantity + precision, []).append(diff | {"tap": f"step {number}"})
    courses = {name: diffs for name, diffs in lines.items() if len(diffs) > 1}  # one point, as a gradient's, is no line
    return curve([{"rung": name, "diffs": diffs} for name, diffs in courses.items()], LABELLED)


def axis(errors: Sequence[float]) -> Axis:
    """The whole decades that hold every error."""
    exponents = [math.log10(error) for error in errors if error > 0] or [0.0]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents))
    return Axis(low, max(high, low + 1), has_zero=min(errors) == 0)


def path(points: Sequence[Point | None]) -> str:
    """SVG path data. A missing point breaks the line: nothing is drawn across it."""
    pen, steps = "M", []
    for point in points:
        if point:
            steps.append(f"{pen}{point.x} {point.y}")
        pen = "L" if point else "M"
    return "".join(steps)


def spread(heights: Sequence[float], gap: float = LABEL_HEIGHT) -> list[float]:
    """The same heights, pushed down just enough that no two labels overlap."""
    placed = list(heights)
    above = -math.inf
    for i in sorted(range(len(placed)), key=lambda i: placed[i]):
        above = placed[i] = max(placed[i], above + gap)
    return placed


def _line(rung: str, role: str, diffs: dict[str, dict[str, Any]], taps: list[str], scale: Axis) -> Line:
    points: list[Point | None] = []
    for x, tap in zip(tap_xs(len(taps)), taps, strict=True):
        error = diffs[tap][ROLES[role]] if tap in diffs else None
        if error is None:
            points.append(None)
        else:
            failed = role == "candidate" and diffs[tap]["status"] == "fail"
            points.append(Point(x, scale.y(error), failed, describe(rung, diffs[tap])))
    return Line(rung, role, path(points), [point for point in points if point])
