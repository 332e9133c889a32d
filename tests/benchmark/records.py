"""Recorded races: what `--benchmark-json results/DATE-speed-DEVICE.json` has kept."""

import json
from pathlib import Path
from typing import Any

from tests.benchmark.race import best_of
from vit_flax.environment import environment

RESULTS = Path(__file__).parent.parent.parent / "results"

Races = dict[str, dict[str, dict[str, Any]]]  # heat -> contestant -> stats and extra_info


def records(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All of them, oldest first."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-speed-*.json"))]


def races(record: dict[str, Any]) -> Races:
    found: Races = {}
    for benchmark in record["benchmarks"]:
        if "contestant" in (info := benchmark["extra_info"]):
            found.setdefault(benchmark["group"], {})[info["contestant"]] = info | {
                "median": benchmark["stats"]["median"]
            }
    return found


def combined(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One record of several of one device, oldest first: of each race the newest, and the highest peaks."""
    raced: dict[str, dict[str, Any]] = {}
    for record in found:
        again = races(record)  # all who ran in the last race of a kind, and nobody from an earlier one
        raced = {name: benchmark for name, benchmark in raced.items() if benchmark["group"] not in again}
        raced |= {benchmark["name"]: benchmark for benchmark in record["benchmarks"]}
    return found[-1] | {"benchmarks": list(raced.values()), "peaks": _highest([record["peaks"] for record in found])}


def _highest(peaks: list[dict[str, Any]]) -> dict[str, Any]:
    """A busy machine shows less of what it can do, never more."""
    matmul: dict[str, float] = {}
    for dtype, peak in (item for record in peaks for item in record["matmul"].items()):
        matmul[dtype] = max(peak, matmul.get(dtype, 0.0))
    return {"matmul": matmul, "copy": max(record["copy"] for record in peaks)}


def best(race: dict[str, dict[str, Any]]) -> str:
    """The fastest of the others."""
    return best_of({name: entry["median"] for name, entry in race.items()})


def ratios(record: dict[str, Any]) -> dict[str, float]:
    """Of each race: how many times as fast as the best of the others we were."""
    return {heat: race[best(race)]["vit_flax_is_times_as_fast"] for heat, race in races(record).items()}


def newest_ratios(folder: Path = RESULTS) -> dict[str, float]:
    """Those last recorded of each race on this kind of device."""
    device = environment()["device"]
    found: dict[str, float] = {}
    for record in records(folder):
        if record["environment"]["device"] == device:
            found |= ratios(record)
    return found
