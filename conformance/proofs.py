"""The proof of the suite itself, as a record and as a page of the docs.

python -m conformance.proofs record     # plant every fault, alone and in pairs: a new file in results/ (an hour)
python -m conformance.proofs docs       # write the newest record into docs/proofs.md

A record that was cut off goes on where it ended.
"""

import dataclasses
import functools
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from conformance.catalogue import fault_named
from conformance.exposure import margins
from conformance.faults import is_at
from conformance.mutation import (
    CONFIG,
    HABITATS,
    Kill,
    faults_in,
    kill,
    pair_told,
    random_pairs,
    remembering,
    sound,
)
from conformance.published import let_through
from conformance.replay import Shown
from conformance.rules import RULES
from conformance.rungs import BY_NAME, NAMES, Ground
from conformance.tables import between
from vit_flax.durable import make_folder, write_json
from vit_flax.environment import begun, environment, measured_on, now

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "results", ROOT / "docs" / "proofs.md"
PART = ROOT / ".cache" / "proofs.json"  # a record that is under way
BEGIN, END = "<!-- results: proofs -->", "<!-- end of results -->"
PAIRS = 60
CHUNK = 8  # faults that a process takes at once: the next ones of a model find it compiled
PRECISIONS = ("float64", "float32", "bfloat16")

Dict = dict[str, Any]


def measured(file: Path) -> Dict:
    """Everything the page says, on the default photographs; `file` has what is known of it, after every fault."""
    run = begun(file, _new())
    planted = [(name, fault.name) for name, config in HABITATS.items() for fault in faults_in(config)]
    pairs = [(one.name, other.name) for one, other in random_pairs(PAIRS)]
    known = {(fault["habitat"], fault["name"]) for fault in run["faults"]}
    named = {tuple(pair["planted"]) for pair in run["pairs"]}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:  # JAX cannot be forked
        for kind, work, due in (
            ("faults", _killed, [fault for fault in planted if fault not in known]),
            ("pairs", _named, [pair for pair in pairs if pair not in named]),
        ):
            for found in processes.map(work, due, chunksize=CHUNK):
                run[kind].append(found)
                write_json(file, run)
    ground = sound()
    return run | {
        "margins": [dataclasses.asdict(m) | {"blind": m.blind} for p in PRECISIONS for m in margins(ground, p)],
        "published": let_through(ground),
        "seconds": {name: _timed(lambda name=name: BY_NAME[name].climb(ground)) for name in NAMES},
    }


def _new() -> Dict:
    return {
        "kind": "proofs",
        "created": now(),
        "environment": environment("torch"),
        "habitats": {name: dataclasses.asdict(config) for name, config in HABITATS.items()},
        "faults": [],
        "pairs": [],
    }


@functools.cache
def _ground(habitat: str) -> tuple[Ground, Shown]:
    return remembering(sound(HABITATS[habitat])), {}


def _killed(planted: tuple[str, str]) -> Dict:
    habitat, name = planted
    return _fault(kill(fault_named(name), *_ground(habitat))) | {"habitat": habitat}


def _named(pair: tuple[str, str]) -> Dict:
    one, other = (fault_named(name) for name in pair)
    ground, _ = _ground(next(name for name, config in HABITATS.items() if config == CONFIG))
    return pair_told(one, other, ground)


def _timed(run: Any) -> float:
    start = time.perf_counter()
    run()
    return round(time.perf_counter() - start, 2)


def _fault(k: Kill) -> Dict:
    return {
        "name": k.fault.name,
        "seen": k.fault.seen,
        "rung": k.fault.rung,
        "place": k.expected,
        "caught_by": k.caught_by,
        "caught_at": k.place,
        "severity": min(k.severity, sys.float_info.max),  # JSON has no infinity
        "named": list(k.named),
    }


def record() -> Path:
    make_folder(PART.parent)
    run = measured(PART) | {"ended": now()}
    file = RESULTS / f"{run['ended'][:16].replace(':', '')}-proofs-{run['environment']['device'].split()[0]}.json"
    write_json(file, run)
    PART.unlink()
    return file


def newest() -> Dict:
    return json.loads(max(RESULTS.glob("*-proofs-*.json")).read_text())


def page(run: Dict) -> str:
    """Markdown: the kill matrix, how well each gate sees, pairs, published gates, rules, times, conditions."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("proofs.md.jinja")
    return template.render(
        run=run,
        measured_on=measured_on(run),
        kills={rung: counts for rung in NAMES if any(counts := _counts(run, rung=rung))},
        habitats={name: _counts(run, habitat=name) for name in run["habitats"]},
        faults=_each_fault(run),
        pairs=sorted_pairs(run["pairs"]),
        gates=_gates(run),
        rules=RULES,
        infinite=sys.float_info.max,
    )


def _counts(run: Dict, **of: str) -> tuple[int, int, int, int]:
    """Of the faults of a rung or in a habitat: how many there are, were caught by their rung, at their place, named."""
    own = [f for f in run["faults"] if all(f[key] == value for key, value in of.items())]
    return (
        len(own),
        sum(f["caught_by"] == f["rung"] for f in own),
        sum(f["caught_by"] == f["rung"] and is_at(f["caught_at"], f["place"]) for f in own),
        sum(f["named"] == [f["name"]] for f in own),
    )


def _each_fault(run: Dict) -> list[Dict]:
    """Each once, as in the model where its error is least, with the number of models it was planted in."""
    by_name: dict[str, list[Dict]] = {}
    for fault in run["faults"]:
        by_name.setdefault(fault["name"], []).append(fault)
    return [min(own, key=lambda f: f["severity"]) | {"models": len(own)} for own in by_name.values()]


def sorted_pairs(told: list[Dict]) -> dict[str, list[Dict]]:
    """The pairs by what became of them: both named, one hidden behind the other and this one named, or missed."""
    pairs: dict[str, list[Dict]] = {"both": [], "hidden": [], "missed": []}
    for pair in told:
        if pair["named"] == sorted(pair["planted"]):
            pairs["both"].append(pair)
        elif pair["one hides the other"] and len(pair["named"]) == 1 and pair["named"][0] in pair["planted"]:
            pairs["hidden"].append(pair)
        else:
            pairs["missed"].append(pair)
    return pairs


def _gates(run: Dict) -> list[tuple[Dict, Dict]]:
    """Each gate on photographs, and on the input on which its weakest fault shows best."""
    keys = dict.fromkeys((m["precision"], m["part"]) for m in run["margins"])
    gates = [[m for m in run["margins"] if (m["precision"], m["part"]) == key] for key in keys]
    return [
        (next(m for m in own if m["exposure"] == "photographs"), max(own, key=lambda m: m["margin"])) for own in gates
    ]


def written(text: str, run: Dict) -> str:
    """The page's text with the record's tables between its marks."""
    return between(BEGIN, END, page(run), text)


def main() -> None:
    match sys.argv[1:]:
        case ["record"]:
            print(record())
        case ["docs"]:
            PAGE.write_text(written(PAGE.read_text(), newest()))
            print(PAGE)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
