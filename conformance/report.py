"""What a run leaves behind, from one plain dict: `report.json`, `report.html` and the terminal summary.

The dict is described, field by field, in `report.schema.json`. Nothing here compares: what failed has been decided.
"""

import json
import math
import os
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from conformance import chart

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "report.schema.json").read_text(encoding="utf-8"))
RUNGS = ("weights", "float64", "float32", "bfloat16")

# How many bits a probe product keeps, at least, for us to believe the format. Rounding to 53, 24, 11 or 8 bits
# leaves about that many; the sums over the inner dimension cost some more.
PRECISIONS = ((43, "float64"), (18, "float32"), (14, "a mix of formats"), (10, "TF32 or float16"), (6, "bfloat16"))

Dict = dict[str, Any]


def write(report: Dict, folder: Path) -> None:
    """Leave `report.json` and `report.html` in the folder, or raise and leave nothing."""
    report = finite(report)
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    texts = {"report.json": json.dumps(report, indent=1, allow_nan=False) + "\n", "report.html": html(report)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        _replace(folder / name, text)


def html(report: Dict) -> str:
    """The report as one page that needs nothing but itself."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"chart": chart, "rungs": RUNGS}
    functions = (case_failed, consequences, created, depth, failing_alone, reading, rungs_by_name, worst)
    environment.filters |= {function.__name__: function for function in functions}
    return environment.get_template("report.html.jinja").render(report=report)


def summary(report: Dict, width: int = 80) -> list[str]:
    """The run in a few lines for the terminal, the headline first."""
    report = finite(report)
    failing = [case for case in report["cases"] if case_failed(case)]
    env = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in env["packages"].items())
    lines = [
        *_wrap(f"{report['verdict'].upper()}  {report['headline']}", width, rest=6),
        *_table(report["cases"], width),
        *(line for case in failing for line in _findings(case, width)),
        *_wrap(f"target  {report['target']}", width, rest=8),
        *_wrap(f"images  {report['images']['source']}", width, rest=8),
        *_wrap(f"device  {env['device']}, python {env['python']}, {versions}", width, rest=8),
    ]
    return [line[:width] for line in lines]


def finite(value: Any) -> Any:
    """The same report without NaN and infinity, which JSON lacks: null instead, and a diff says what its error was."""
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        clean = {key: finite(item) for key, item in value.items()}
        if clean.get("error", 0) is None and value["error"] is not None and clean.get("problem") is None:
            clean["problem"] = f"error is not finite: {value['error']}"
        return clean
    return None if isinstance(value, float) and not math.isfinite(value) else value


def case_failed(case: Dict) -> bool:
    return any(rung["status"] == "fail" for rung in case["rungs"])


def rungs_by_name(case: Dict) -> dict[str, Dict]:
    return {rung["rung"]: rung for rung in case["rungs"]}


def worst(diffs: list[Dict], rung: str) -> str:
    """The worst number: an error in float64, elsewhere a multiple of what must be granted. Empty if there is worse."""
    if any(diff["error"] is None for diff in diffs):
        return ""
    key, form = ("error", "{:.1e}") if rung == "float64" else ("ratio", "{:.2f}x")
    numbers = [diff[key] for diff in diffs if diff[key] is not None]
    return form.format(max(numbers)) if numbers else ""


def consequences(rung: Dict) -> list[str]:
    """The taps that fail after the first that fails alone, in data order."""
    failing = [diff for diff in rung["diffs"] if diff["status"] == "fail"]
    alone = [diff["tap"] for diff in failing if diff["mode"] == "alone"]
    taps = [tap for tap in chart.data_order([rung]) if tap in {diff["tap"] for diff in failing}]
    first = alone[0] if alone else next(iter(taps), None)
    return taps[taps.index(first) + 1 :] if first else []


def failing_alone(rung: Dict) -> set[str]:
    """The taps that fail on the reference's own input, so not only in consequence of an earlier one."""
    return {diff["tap"] for diff in rung["diffs"] if diff["status"] == "fail" and diff["mode"] == "alone"}


def depth(case: Dict) -> str:
    """Layers compared, out of how many where depth was cut."""
    cut = case["num_layers"] < case["full_depth"]
    return f"{case['num_layers']} of {case['full_depth']}" if cut else str(case["num_layers"])


def created(report: Dict) -> str:
    return f"{datetime.fromisoformat(report['created']).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def reading(error: float | None, label: str) -> str:
    """What the error of a probe product says about the arithmetic that ran, in plain words.

    >>> reading(3e-4, "torch float32")
    'about 12 bits: TF32 or float16, not float32'
    """
    if error is None:
        return "not finite: the product cannot be trusted"
    if error == 0:
        return "no rounding seen"
    bits, asked = -math.log2(error), label.split()[-1]
    name = next((name for least, name in PRECISIONS if bits >= least), "worse than bfloat16")
    return f"about {bits:.0f} bits: {name}" + (f", not {asked}" if asked not in name.split() else "")


def _table(cases: list[Dict], width: int) -> list[str]:
    """One line per case; the names give way where the numbers would not fit."""
    rows = [["subject", "reference", "size", "depth", *RUNGS[1:]], *map(_cells, cases)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    spare = width - sum(widths[2:]) - len(widths) + 1
    widths[1] = min(widths[1], max(spare - widths[0], spare // 2, 1))
    widths[0] = min(widths[0], max(spare - widths[1], 1))
    lines = []
    for row in rows:
        names = [_clip(text, size).ljust(size) for text, size in zip(row[:2], widths, strict=False)]
        lines.append(" ".join([*names, *(text.rjust(size) for text, size in zip(row[2:], widths[2:], strict=True))]))
    return lines


def _cells(case: Dict) -> list[str]:
    rungs = rungs_by_name(case)
    height, breadth = case["image_size"]
    standings = [_standing(rungs.get(name)) for name in RUNGS[1:]]
    reference = case["reference"].removesuffix(f":{case['subject']}")  # the twin is named after its subject
    return [_plain(case["subject"]), _plain(reference), f"{height}x{breadth}", depth(case), *standings]


def _standing(rung: Dict | None) -> str:
    if rung is None:
        return "not run"
    if rung["status"] == "pass":
        return worst(rung["diffs"], rung["rung"]) or "pass"
    return "FAIL" if rung["status"] == "fail" else rung["status"]


def _findings(case: Dict, width: int) -> list[str]:
    """What failed in a case, and how many later taps only followed."""
    lines = []
    for rung in (rung for rung in case["rungs"] if rung["status"] == "fail"):
        lines += _wrap(f"{case['subject']} against {case['reference']}, {rung['rung']}:", width, rest=2)
        lines += _wrap(rung["headline"] or "failed", width, first=2, rest=4)
        later = consequences(rung)
        again = len(failing_alone(rung) & set(later))
        also = f", {again} also failing alone" if again else ""
        counted = f"consequences: {len(later)} later tap{'s' * (len(later) > 1)}{also}"
        lines += _wrap(counted, width, first=2, rest=4) if later else []
    return lines


def _wrap(text: str, width: int, *, first: int = 0, rest: int) -> list[str]:
    return textwrap.wrap(_plain(text), width, initial_indent=" " * first, subsequent_indent=" " * rest)


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 2, 0)] + ".."[:width]


def _plain(text: str) -> str:
    """One line of ASCII: what any terminal and any log can show."""
    return text.encode("unicode_escape").decode()


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
