"""What a run leaves behind, from one plain dict: `report.json` and `report.html`.

The dict is described, field by field, in `report.schema.json`. Nothing here compares: what failed has been decided.
"""

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from conformance import chart
from conformance.printable import printable

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "report.schema.json").read_text(encoding="utf-8"))
DEFAULT = "float32 default"  # matrix products as the device likes them: told beside float32, where it was run
FORWARD = ("float64", "float32", DEFAULT, "bfloat16", "float16")
GRADIENTS = ("gradients float64", "gradients float32", "gradients bfloat16")
ERRORS = ("float64", "gradients float64", "trajectory")  # where what is told is the error itself
UNDECIDED = (  # words for which nothing has been seen to differ
    "incomplete", "not verified", "cannot be built for this config", "cannot run in this precision",
)  # fmt: skip

# How many bits a probe product keeps, at least, for us to believe the format. Rounding to 53, 24, 11 or 8 bits
# leaves about that many; the sums over the inner dimension cost some more.
PRECISIONS = ((43, "float64"), (18, "float32"), (14, "a mix of formats"), (10, "TF32 or float16"), (6, "bfloat16"))

Dict = dict[str, Any]


def write(report: Dict, folder: Path) -> None:
    """Leave `report.json` and `report.html` in the folder, or raise and leave nothing."""
    report = clean(report)
    _validate(report)
    texts = {"report.json": json.dumps(report, indent=1, allow_nan=False) + "\n", "report.html": html(report)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        _replace(folder / name, text)


def _validate(report: Dict) -> None:
    """Raise if the report is not as its schema says. Where there is no jsonschema, a report is better than none."""
    try:
        import jsonschema
    except ImportError:
        return
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)


def html(report: Dict) -> str:
    """The report as one page that needs nothing but itself."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"chart": chart, "forward": FORWARD, "gradients": GRADIENTS}
    functions = (
        case_failed,
        caught,
        columns,
        consequences,
        count,
        created,
        depth,
        failing_alone,
        mark,
        nearness,
        reading,
    )
    environment.filters |= {function.__name__: function for function in (*functions, rungs_by_name, unverified, worst)}
    return environment.get_template("report.html.jinja").render(report=report)


def clean(value: Any) -> Any:
    """The same report without what JSON or a page cannot hold.

    Text is printable. NaN and infinity are null, and a diff says what its error was.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        found = {printable(key): clean(item) for key, item in value.items()}
        if found.get("error", 0) is None and value["error"] is not None and found.get("problem") is None:
            found["problem"] = f"error is not finite: {value['error']}"
        return found
    return None if isinstance(value, float) and not math.isfinite(value) else value


def case_failed(case: Dict) -> bool:
    return any(rung["status"] == "fail" for rung in case["rungs"])


def mark(verdict: str) -> str:
    """The class of a verdict, or of a case's word, on the page: what is not a pass is not coloured as one."""
    if verdict in ("pass", "the same"):
        return "passed"
    return "unverified" if verdict in UNDECIDED else "failed"


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
    names = {diff["tap"] for diff in failing}
    taps = [tap for tap in chart.data_order([rung]) if tap in names]
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


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
