"""What a run leaves behind, from one plain dict: `report.json`, `report.html` and the terminal summary.

The dict is described, field by field, in `report.schema.json`. Nothing here compares: what failed has been decided.
"""

import json
import math
import os
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from conformance import chart

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "report.schema.json").read_text(encoding="utf-8"))
DEFAULT = "float32 default"  # matrix products as the device likes them: told beside float32, where it was run
FORWARD = ("float64", "float32", DEFAULT, "bfloat16", "float16")
GRADIENTS = ("gradients float64", "gradients float32", "gradients bfloat16")
HEADINGS = ["subject", "reference", "size", "depth", "f64", "f32", "bf16", "f16", "grads", "train"]
ERRORS = ("float64", "gradients float64", "trajectory")  # where what is told is the error itself

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
    environment.globals |= {"chart": chart, "forward": FORWARD, "gradients": GRADIENTS}
    functions = (case_failed, caught, columns, consequences, count, created, depth, failing_alone, nearness, reading)
    environment.filters |= {function.__name__: function for function in (*functions, rungs_by_name, unverified, worst)}
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
        *_not_verified(report["cases"], width),
        *(_wrap(f"suite: {caught(report['mutation'])}", width, rest=7) if report.get("mutation") else []),
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


def columns(cases: list[Dict]) -> list[str]:
    """The rungs of the model that the overview has a column for."""
    default = any(rung["rung"] == DEFAULT and rung["status"] != "not run" for case in cases for rung in case["rungs"])
    return [name for name in FORWARD if name != DEFAULT or default]


def rungs_by_name(case: Dict) -> dict[str, Dict]:
    return {rung["rung"]: rung for rung in case["rungs"]}


def worst(diffs: list[Dict], rung: str, digits: int = 1) -> str:
    """The worst number: an error, a multiple of what must be granted, or elsewhere a share of its limit.

    Empty where there is worse than any number.
    """
    if not diffs or any(diff["error"] is None for diff in diffs):
        return ""
    if rung in ERRORS:
        return f"{max(diff['error'] for diff in diffs):.{digits}e}"
    if rung in (*FORWARD, *GRADIENTS, "float32 offset"):
        ratios = [diff["ratio"] for diff in diffs if diff["ratio"] is not None]
        return f"{max(ratios):.2f}x" if ratios else ""
    return nearness(chart.worst(diffs))


def nearness(diff: Dict) -> str:
    """How near its limit a comparison came, or how far beyond."""
    if diff["problem"] is not None or diff["error"] is None:
        return diff["problem"] or "not measured"
    if diff["error"] == 0:
        return "exact"
    return f"{chart.share(diff):.2g}" if diff["limit"] else f"{diff['error']:.2g}, where 0 is allowed"


def caught(mutation: Dict) -> str:
    """What the suite made of targets with one known fault each."""
    faults = mutation["faults"]
    return (
        f"{mutation['killed']} of {faults} known faults caught, {mutation['placed']} at the right place, "
        f"{mutation['diagnosed']} named"
    )


def unverified(cases: list[Dict]) -> dict[str, str]:
    """What could not be verified: for each reason, which rungs and in how many cases."""
    lacking = [(case, rung) for case in cases for rung in case["rungs"] if rung["status"] == "not verified"]
    found = {}
    for reason in dict.fromkeys(rung["headline"] for _, rung in lacking):
        same = [(case["id"], rung["rung"]) for case, rung in lacking if rung["headline"] == reason]
        ids, names = (dict.fromkeys(column) for column in zip(*same, strict=True))
        found[reason or "for no reason given"] = f"{', '.join(names)}, in {len(ids)} case{'s' * (len(ids) > 1)}"
    return found


def count(cases: list[Dict], status: str) -> int:
    """How many rungs of all cases ended like this."""
    return sum(rung["status"] == status for case in cases for rung in case["rungs"])


def consequences(rung: Dict) -> list[str]:
    """The taps that fail after the first that fails alone, as listed. Only where errors flow from tap to tap."""
    if rung["rung"] not in (*FORWARD, *GRADIENTS):
        return []
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
    """One line per case; float16 gives way where the numbers would not fit, and then the names."""
    rows = [HEADINGS, *map(_cells, cases)]
    if sum(_widths(rows)) + len(HEADINGS) - 1 > width:
        place = HEADINGS.index("f16")
        rows = [row[:place] + row[place + 1 :] for row in rows]
    widths = _widths(rows)
    spare = width - sum(widths[2:]) - len(widths) + 1
    widths[1] = min(widths[1], max(spare - widths[0], spare // 2, 1))
    widths[0] = min(widths[0], max(spare - widths[1], 1))
    lines = []
    for row in rows:
        names = [_clip(text, size).ljust(size) for text, size in zip(row[:2], widths, strict=False)]
        lines.append(" ".join([*names, *(text.rjust(size) for text, size in zip(row[2:], widths[2:], strict=True))]))
    return lines


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _cells(case: Dict) -> list[str]:
    height, breadth = case["image_size"]
    cut = f"/{case['full_depth']}" if case["num_layers"] < case["full_depth"] else ""
    source = case["reference"].partition(":")[0]  # the subject says which of its models
    told = (["float64"], ["float32", DEFAULT], ["bfloat16"], ["float16"], GRADIENTS, _training(case))
    standings = [_standing(case, names) for names in told]
    return [_plain(case["subject"]), _plain(source), f"{height}x{breadth}", f"{case['num_layers']}{cut}", *standings]


def _training(case: Dict) -> list[str]:
    return [rung["rung"] for rung in case["rungs"] if rung["rung"] not in ("weights", *FORWARD, *GRADIENTS)]


def _standing(case: Dict, names: Sequence[str]) -> str:
    """The worst news of some rungs; else the first one's figure, or how many held if there are none to compare."""
    rungs = [rung for rung in case["rungs"] if rung["rung"] in names and rung["status"] != "not run"]
    statuses = {rung["status"] for rung in rungs}
    passing = [rung for rung in rungs if rung["status"] == "pass"]
    if not rungs or "fail" in statuses:
        return "FAIL" if rungs else "-"
    if not passing:
        return "blocked" if "blocked" in statuses else "n.v."
    if passing[0]["rung"] in (*FORWARD, *GRADIENTS):
        return worst(passing[0]["diffs"], passing[0]["rung"], digits=0) or "pass"
    return f"{len(passing)} ok" if len(passing) == len(rungs) else f"{len(passing)}/{len(rungs)}"


def _findings(case: Dict, width: int) -> list[str]:
    """What failed in a case, why if that is known, and how much besides."""
    lines = []
    for rung in (rung for rung in case["rungs"] if rung["status"] == "fail"):
        lines += _wrap(f"{case['subject']} against {case['reference']}, {rung['rung']}:", width, rest=2)
        diagnosis = [rung["diagnosis"]["text"]] if rung.get("diagnosis") else []
        for text in (rung["headline"] or "failed", *diagnosis, *_extent(rung)):
            lines += _wrap(text, width, first=2, rest=4)
    return lines


def _extent(rung: Dict) -> list[str]:
    later = consequences(rung)
    if later:
        again = len(failing_alone(rung) & set(later))
        also = f", {again} also failing alone" if again else ""
        return [f"consequences: {len(later)} later tap{'s' * (len(later) > 1)}{also}"]
    failing = sum(diff["status"] == "fail" for diff in rung["diffs"])
    return [f"{failing} of {len(rung['diffs'])} comparisons fail"] if failing > 1 else []


def _not_verified(cases: list[Dict], width: int) -> list[str]:
    lacking = count(cases, "not verified")
    counted = f"not verified (n.v.): {lacking} rung{'s' * (lacking > 1)}, which neither passed nor failed"
    lines = _wrap(counted, width, rest=2) if lacking else []
    for reason, rungs in unverified(cases).items():
        lines += _wrap(f"{reason}: {rungs}", width, first=2, rest=4)
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
