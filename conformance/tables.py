"""Recorded runs, and the README's tables made from them.

    python -m conformance.tables record report/report.json   # keep a run: one new file in results/
    python -m conformance.tables readme                      # write the newest runs into README.md

A test holds the README against `results/`, so no figure in it can be typed by hand.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from conformance.report import caught, depth, worst
from vit_flax.environment import measured_on

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
BEGIN, END = "<!-- results: {} -->", "<!-- end of results -->"
SHOWN = ("float64", "float32", "bfloat16", "float16", "gradients float64", "trajectory")


def condensed(report: dict[str, Any]) -> dict[str, Any]:
    """A report without its taps: of each rung the status, the time and the worst figure stay."""

    def rung(rung: dict[str, Any]) -> dict[str, Any]:
        return {key: rung[key] for key in ("rung", "status", "seconds")} | {"worst": worst(rung["diffs"], rung["rung"])}

    cases = [case | {"rungs": [rung(r) for r in case["rungs"]]} for case in report["cases"]]
    return {"kind": "conformance"} | report | {"cases": cases}


def record(path: Path) -> Path:
    """Keep a run under its date and device. Raises `FileExistsError` rather than change a kept one."""
    run = condensed(json.loads(path.read_text()))
    device = run["environment"]["device"].split()[0]
    kept = RESULTS / f"{run['created'][:16].replace(':', '')}-conformance-{device}.json"
    with kept.open("x") as file:
        json.dump(run, file, indent=1)
        file.write("\n")
    return kept


def newest() -> dict[str, Any]:
    return json.loads(max(RESULTS.glob("*-conformance-*.json")).read_text())


def training_runs() -> list[dict[str, Any]]:
    """The newest record of each preset, recipe, device and number of epochs."""
    newest: dict[tuple[str, int], dict[str, Any]] = {}
    for file in sorted(RESULTS.glob("*-training-*.json")):
        run = json.loads(file.read_text())
        newest[file.stem.partition("-training-")[2], run["epochs"]] = run
    return list(newest.values())


def conformance_table(run: dict[str, Any]) -> str:
    """Markdown: a row per case, and under it what was run on what."""
    rows = [
        "| subject | against | images | layers | float64 error | float32 error ratio | bfloat16 error ratio "
        "| float16 error ratio | gradients, float64 error | trajectory, float64 error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in run["cases"]:
        figures = {rung["rung"]: _figure(rung) for rung in case["rungs"]}
        size = "×".join(map(str, (case["batch_size"], *case["image_size"])))
        cells = [case["subject"], case["reference"], size, depth(case), *(figures.get(name, "–") for name in SHOWN)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", _conditions(run)])


def _figure(rung: dict[str, Any]) -> str:
    """A dash for what was not run: an older record need not know the rung, nor a newer one have climbed it."""
    return {"pass": rung["worst"], "not run": "–"}.get(rung["status"], rung["status"])


def _conditions(run: dict[str, Any]) -> str:
    limits, images = run["limits"], run["images"]
    seeds = ", ".join(sorted({str(case["seed"]) for case in run["cases"]}))
    return (
        f"Limits: {limits['float64']:g} of a tap's scale in float64, ratio {limits['rounding_factor']:g} elsewhere. "
        f"Images: {images['source']}. Seed of the weights: {seeds}. {_caught(run)}{measured_on(run)}"
    )


def _caught(run: dict[str, Any]) -> str:
    return f"The suite: {caught(run['mutation'])}. " if run.get("mutation") else ""


def training_table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row for each configuration that was trained, and under it what on."""
    runs = sorted(runs, key=lambda run: (run["settings"]["preset"], run["epochs"]))
    rows = [
        "| model | parameters | recipe | epochs | seeds | test accuracy | minutes a run | images/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    alike: dict[str, list[str]] = {}  # what was trained on the same data and device, the same day
    for run in runs:
        settings, seeds = run["settings"], [result["seed"] for result in run["runs"]]
        trained = alike.setdefault(f"{settings['source']}. {measured_on(run)}", [])
        trained.append(f"{settings['preset']} ({run['epochs']})")
        spread = "" if run["sd"] is None else f" ± {run['sd']:.4f}"
        cells = [
            settings["preset"],
            f"{run['runs'][0]['parameters']:,}",
            settings["recipe_name"],
            f"{run['epochs']} of {settings['recipe']['epochs']}",
            ", ".join(map(str, seeds)),
            f"{run['mean']:.4f}{spread}",
            f"{run['seconds'] / 60:.1f}",
            f"{run['images_per_second']:,.0f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    conditions = [f"{', '.join(trained)}: {measured}" for measured, trained in alike.items()]
    return "\n".join([*rows, "", "\n\n".join(conditions)])


def between(begin: str, end: str, made: str, text: str) -> str:
    """A page's text with what was made between its two marks."""
    before, rest = text.split(begin)
    return f"{before}{begin}\n{made}\n{end}{rest.split(end)[1]}"


def readme(text: str) -> str:
    """The page with its tables made anew."""
    tables = {"conformance": conformance_table(newest()), "training": training_table(training_runs())}

    def made_anew(block: re.Match[str]) -> str:
        return f"{BEGIN.format(block['name'])}\n{tables[block['name']]}\n{END}"

    return re.sub(f"{BEGIN.format('(?P<name>.*?)')}.*?{END}", made_anew, text, flags=re.DOTALL)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["record", path]:
            print(record(Path(path)))
        case ["readme"]:
            page = ROOT / "README.md"
            page.write_text(readme(page.read_text()))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
