"""Faults that whoever wrote the rungs had not seen: a record of what became of them, as a table of the docs.

python -m conformance.unseen docs     # write the newest record in results/ into docs/proofs.md

A round is judged by hand: whether a name that the diagnosis gave is that of the fault.
"""

import json
import sys
from pathlib import Path
from typing import Any

from conformance.tables import between
from vit_flax.environment import measured_on

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "results", ROOT / "docs" / "proofs.md"
BEGIN, END = "<!-- results: unseen faults -->", "<!-- end of unseen faults -->"
JUDGED = ("rightly named", "unknown", "wrongly named", "survived")

Dict = dict[str, Any]


def newest() -> Dict:
    return json.loads(max(RESULTS.glob("*-unseen-faults-*.json")).read_text())


def page(record: Dict) -> str:
    """Markdown: one row a round, and what it was measured on."""
    lines = [
        f"| faults | in all | {' | '.join(JUDGED)} | survive today |",
        "|---|---|---|---|---|---|---|",
    ]
    for round_ in record["rounds"]:
        faults = round_["faults"]
        counts = [sum(fault["judged"] == judged for fault in faults) for judged in JUDGED]
        left = sum(fault["judged"] == "survived" and not fault.get("caught_since", False) for fault in faults)
        lines.append(f"| {' | '.join(map(str, (round_['of'], len(faults), *counts, left)))} |")
    return "\n".join([*lines, "", f"Model: `{record['model']}`. Images: {record['images']}. {measured_on(record)}"])


def written(text: str, record: Dict) -> str:
    """The page's text with the record's table between its marks."""
    return between(BEGIN, END, page(record), text)


def main() -> None:
    match sys.argv[1:]:
        case ["docs"]:
            PAGE.write_text(written(PAGE.read_text(), newest()))
            print(PAGE)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
