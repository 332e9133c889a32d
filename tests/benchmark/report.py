"""The speed report: what the recorded races say, as a table and a picture.

    pytest tests/benchmark --benchmark-json results/DATE-speed-DEVICE.json   # race, and keep a record (add --gpu)
    python -m tests.benchmark.report                                         # write docs/performance.md, and draw

The table is held against `results/` by a test, so no figure in it can be typed by hand.
"""

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmark.race import OURS
from tests.benchmark.records import RESULTS, best, combined, races, ratios, records
from vit_flax.environment import measured_on

DOCS = RESULTS.parent / "docs"
PAGE = DOCS / "performance.md"
BEGIN, END = "<!-- results: {} -->", "<!-- end of results -->"
SAID = {
    "pipeline_over_constant_batch": "Training with the input pipeline in the step: {:.1%} of its speed without.",
    "times_as_fast_as_the_dataloader": "The pipeline on the device: {:.1f} times as fast as the article's DataLoader.",
    "over_jax_and_flax": "`import vit_flax`: {:.2f} times the time of `import jax, flax`.",
    "first_result_seconds": "`pytest conformance` shows its first result after {:.1f} s.",
}
INK, BAR, BEHIND = "#808890", "#3d7dca", "#c8703d"  # legible on white and on black


def by_device(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """All records of each device, oldest first; the devices in the order of their newest, the last raced on first."""
    grouped = [(d, list(rs)) for d, rs in groupby(sorted(found, key=_device), key=_device)]
    return dict(sorted(grouped, key=lambda item: item[1][-1]["created"], reverse=True))


def _device(record: dict[str, Any]) -> str:
    return record["environment"]["device"]


def table(record: dict[str, Any]) -> str:
    """Markdown: a row for each race, ours against the best of the others, and under it what it was measured on."""
    rows = [
        "| race | vit_flax, images/s | MFU | compile, s | memory, MB | best other | its images/s | its compile, s "
        "| times as fast |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for heat, race in sorted(races(record).items(), key=_by_size):
        ours, name = race[OURS], best(race)
        other, peak = race[name], record["peaks"]["matmul"][heat.split("-")[-2]]
        cells = [
            heat,
            _short(ours["images_per_second"]),
            f"{ours['flops'] / ours['median'] / peak:.0%}",
            f"{ours['compile_seconds']:.1f}",
            f"{ours['peak_memory'] / 1e6:,.0f}",
            name,
            _short(other["images_per_second"]),
            f"{other['compile_seconds']:.0f}",
            f"{other['vit_flax_is_times_as_fast']:.2f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", _conditions(record)])


def _by_size(item: tuple[str, Any]) -> tuple[str, ...]:
    """By model, then by the batch as a number."""
    *model, size, dtype, mode = item[0].split("-")
    return ("-".join(model), dtype, mode, size.zfill(6))


def _short(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"


def _conditions(record: dict[str, Any]) -> str:
    peaks = record["peaks"]
    products = ", ".join(f"{peak / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, peak in peaks["matmul"].items())
    return (
        "Times as fast: the median of the rounds' own ratios. MFU is of the highest peak measured of a matrix product: "
        f"{products}; copying runs at {peaks['copy'] / 1e9:,.0f} GB/s. Random images. {measured_on(record)}"
    )


def others(record: dict[str, Any]) -> str:
    """Markdown: what was measured besides the races."""
    found = {b["name"]: b["extra_info"] for b in record["benchmarks"]}
    growth = [info for info in found.values() if "exponent" in info]
    rows = ["| a training step grows with | time ×1, ×2, ×4, ms | exponent |", "|---|---|---|"]
    for info in growth:
        times = ", ".join(f"{1000 * seconds:,.0f}" for seconds in info["seconds"])
        rows.append(f"| {info['grows']} | {times} | {info['exponent']:.2f} |")
    lines = [text.format(info[key]) for key, text in SAID.items() for info in found.values() if key in info]
    calls = {name: info for name, info in found.items() if name.startswith("test_epoch[")}
    if calls:
        speeds = ", ".join(f"{name[11:-1]}: {_short(info['images_per_second'])}" for name, info in calls.items())
        lines.append(f"Steps in one call on the device, images/s: {speeds}.")
    return "\n".join([*(rows if growth else []), "", " ".join(lines)])


def page(text: str) -> str:
    """The page with its tables and its log made anew."""
    parts = []
    for device, of_device in by_device(records()).items():
        record = combined(of_device)
        parts += [f"### {device}", f"![Speed on {device}]({_picture_of(device)})", table(record), others(record)]
    logs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-experiments-*.json"))]
    for name, made in (("speed", parts), ("experiments", map(log, logs))):
        block = "\n\n".join([BEGIN.format(name), *made, END])
        text = re.sub(f"{BEGIN.format(name)}.*?{END}", lambda _: block, text, flags=re.DOTALL)  # noqa: B023
    return text


def _picture_of(device: str) -> str:
    return f"speed-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.svg"


def log(record: dict[str, Any]) -> str:
    """Markdown: what was tried, why, what it was expected to do, and what it did."""
    parts = [
        f"**{e['change']}: {'kept' if e['kept'] else 'dropped'}.** {e['why']} Expected: {e['expected'][0].lower()}"
        f"{e['expected'][1:]}. Found: {e['found']}"
        for e in record["experiments"]
    ]
    measured = f"Medians, paired where a ratio is given. {measured_on(record)}"
    return "\n\n".join([*parts, record["remaining"], measured])


def picture(of_device: list[dict[str, Any]], path: Path) -> None:
    """Bars of ratios, the roofline, and the ratios of all records so far."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context(dict.fromkeys(inked, INK) | {"font.size": 9, "svg.hashsalt": "speed"}):
        record = combined(of_device)
        height = 0.22 * len(ratios(record)) + 1
        figure = Figure(figsize=(9, height + 3.4), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(height, 3.4))
        _bars(top.subplots(), record)
        left, right = bottom.subplots(1, 2)
        _roofline(left, record)
        _history(right, of_device)
        figure.savefig(path, transparent=True, metadata={"Date": None})


def _bars(axes: Axes, record: dict[str, Any]) -> None:
    found = sorted(ratios(record).items(), key=_by_size, reverse=True)
    heats, values = [heat for heat, _ in found], [value for _, value in found]
    axes.barh(heats, values, color=[BAR if value >= 1 else BEHIND for value in values])
    for i, value in enumerate(values):
        axes.text(value, i, f" {value:.2f}", va="center")
    axes.axvline(1, color=INK)
    axes.set(title="Times as fast as the best of the others", xlim=(0, max(values) * 1.12))
    axes.margins(y=0.01)


def _roofline(axes: Axes, record: dict[str, Any]) -> None:
    dtype = next(iter(record["peaks"]["matmul"]))
    peak, copy = record["peaks"]["matmul"][dtype], record["peaks"]["copy"]
    for heat, race in races(record).items():
        ours = race[OURS]
        if f"-{dtype}-" in heat:
            colour = BEHIND if heat.endswith("train") else BAR
            intensity, speed = ours["flops"] / ours["bytes_moved"], ours["flops"] / ours["median"] / 1e9
            axes.loglog(intensity, speed, "o", color=colour, ms=4)
    low, high = axes.get_xlim()
    intensities = [low, min(max(peak / copy, low), high), high]
    axes.loglog(intensities, [min(peak, copy * x) / 1e9 for x in intensities], color=INK)
    axes.set(title=f"Roofline, {dtype}: forward blue, training brown", xlabel="FLOP per byte moved", ylabel="GFLOP/s")


def _history(axes: Axes, of_device: list[dict[str, Any]]) -> None:
    raced = [record for record in of_device if ratios(record)]
    for heat in ratios(combined(raced)):
        values = {i: found[heat] for i, found in enumerate(map(ratios, raced)) if heat in found}
        colour = BEHIND if heat.endswith("train") else BAR
        axes.plot(list(values), list(values.values()), "o-", color=colour, ms=3)
    axes.axhline(1, color=INK)
    axes.set_xticks(range(len(raced)), [record["created"][5:16].replace("T", "\n") for record in raced])
    axes.set(title="All records: times as fast", yscale="log")


def main() -> None:
    for device, of_device in by_device(records()).items():
        picture(of_device, DOCS / _picture_of(device))
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
