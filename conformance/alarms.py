"""Do the gates cry wolf? A sound model, many seeds of its weights, and how near to each limit it comes.

python -m conformance.alarms sweep FILE SEEDS [RUNG ...]   # so many seeds a rung and habitat, into a record (hours)
python -m conformance.alarms docs                          # write the newest record in results/ into docs/proofs.md

A sweep that was cut off goes on where its file ends.
"""

import dataclasses
import functools
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from conformance.mutation import HABITATS, sound
from conformance.rungs import BY_NAME, Ground
from conformance.tables import between
from conformance.weights import random_weights
from vit_flax.durable import write_json
from vit_flax.environment import begun, environment, measured_on, now

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "results", ROOT / "docs" / "proofs.md"
BEGIN, END = "<!-- results: false alarms -->", "<!-- end of false alarms -->"
RUNGS = ("float32", "float32 offset", "bfloat16", "float16", "gradients float32", "gradients bfloat16")
CHUNK = 100  # seeds between two writes of the record
FORESEEN = 1e-6  # a smaller chance is not told from some hundred seeds
KEPT = 100  # the largest errors that a record keeps, which its tail is fitted to

Dict = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Worst:
    """The worst tap of one seed."""

    seed: int
    share: float  # its error as a share of its limit
    place: str

    @property
    def is_alarm(self) -> bool:
        return not self.share <= 1  # NaN is one

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.place} at {self.share:.2f} of its limit"


def swept(rung: str, ground: Ground, seeds: Iterable[int]) -> list[Worst]:
    """The worst tap of this rung for each seed of the weights; both sides are built and compiled once."""
    ground = dataclasses.replace(
        ground,
        target=functools.cache(ground.target),
        reference_target=functools.cache(ground.reference_target),
    )
    found = []
    for seed in seeds:
        diffs = BY_NAME[rung].climb(dataclasses.replace(ground, weights=random_weights(ground.config, seed)))
        diff = max(diffs, key=lambda diff: (not diff.passes, diff.severity))
        found.append(Worst(seed, diff.severity, f"{diff.tap} {diff.mode}"))
    return found


def chance_of_alarm(largest: Sequence[float], seeds: int) -> float:
    """The chance that one more seed exceeds its limit, from the largest shares of so many seeds, by Hill's estimator.

    It takes the tail for a power law: the logs of the shares are exponential beyond the smallest of the largest. Logs
    of rounding errors look normal, and fall faster. So far from all that was seen, this is an upper estimate.
    """
    threshold = min(largest)
    decay = statistics.fmean(math.log(share / threshold) for share in largest)
    if decay == 0:  # all alike, as where both sides round the same
        return float(threshold > 1)
    return len(largest) / seeds * threshold ** (1 / decay)


def new_record() -> Dict:
    return {
        "kind": "false alarms",
        "created": now(),
        "environment": environment("torch"),
        "habitats": {name: dataclasses.asdict(config) for name, config in HABITATS.items()},
        "sweeps": [],
    }


def add(record: Dict, rung: str, habitat: str, found: Sequence[Worst]) -> None:
    """What a further chunk of seeds found, into the record's entry for this rung and habitat."""
    entry = _entry(record, rung, habitat)
    worst = [Worst(**kept) for kept in entry["largest"]] + list(found)
    worst.sort(key=lambda one: one.share, reverse=True)
    entry["seeds"] += len(found)
    entry["alarms"] += [str(one) for one in found if one.is_alarm]
    entry["largest"] = [dataclasses.asdict(one) | {"share": round(one.share, 4)} for one in worst[:KEPT]]


def _entry(record: Dict, rung: str, habitat: str) -> Dict:
    for entry in record["sweeps"]:
        if (entry["rung"], entry["habitat"]) == (rung, habitat):
            return entry
    record["sweeps"].append({"rung": rung, "habitat": habitat, "seeds": 0, "alarms": [], "largest": []})
    return record["sweeps"][-1]


def sweep(file: Path, seeds: int, rungs: Sequence[str] = RUNGS) -> None:
    """So many seeds of these rungs on every habitat; the file is whole after each chunk."""
    record = begun(file, new_record())
    grounds = {habitat: sound(config) for habitat, config in HABITATS.items()}
    for start in range(0, seeds, CHUNK):
        for habitat, ground in grounds.items():
            for rung in rungs:
                done = _entry(record, rung, habitat)["seeds"]
                due = range(max(start, done), min(start + CHUNK, seeds))
                if due:
                    add(record, rung, habitat, swept(rung, ground, due))
                    write_json(file, record | {"ended": now()})


def newest() -> Dict:
    return json.loads(max(RESULTS.glob("*-false-alarms-*.json")).read_text())


def page(record: Dict) -> str:
    """Markdown: one row a rung and habitat, and what it was measured on."""
    lines = [
        "| rung | model | seeds | false alarms | worst error / its limit | at | chance of an alarm |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in record["sweeps"]:
        worst = Worst(**entry["largest"][0])
        tail = entry["largest"][: entry["seeds"] // 10]
        chance = chance_of_alarm([one["share"] for one in tail], entry["seeds"])
        cells = (
            entry["rung"],
            entry["habitat"],
            entry["seeds"],
            len(entry["alarms"]),
            f"{worst.share:.2f}",
            f"`{worst.place}`",
            f"{chance:.0e}" if chance >= FORESEEN else f"< {FORESEEN:.0e}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", measured_on(record)])


def written(text: str, record: Dict) -> str:
    """The page's text with the record's table between its marks."""
    return between(BEGIN, END, page(record), text)


def main() -> None:
    match sys.argv[1:]:
        case ["sweep", file, seeds, *rungs]:
            sweep(Path(file), int(seeds), rungs or RUNGS)
        case ["docs"]:
            PAGE.write_text(written(PAGE.read_text(), newest()))
            print(PAGE)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
