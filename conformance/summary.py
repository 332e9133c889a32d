"""The run in a few lines for the terminal, from the same dict that `report.json` is."""

import textwrap
from collections.abc import Sequence

from conformance.report import (
    DEFAULT,
    FORWARD,
    GRADIENTS,
    Dict,
    case_failed,
    caught,
    clean,
    consequences,
    count,
    failing_alone,
    unverified,
    worst,
)

HEADINGS = ["subject", "reference", "size", "depth", "f64", "f32", "bf16", "f16", "grads", "train"]
NAMED = 3  # cases of one word that are named; of more there is only the number


def summary(report: Dict, width: int = 80) -> list[str]:
    """The run in a few lines for the terminal, the headline first."""
    report = clean(report)
    failing = [case for case in report["cases"] if case_failed(case)]
    env = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in env["packages"].items())
    lines = [
        *_wrap(f"{report['verdict'].upper()}  {report['headline']}", width, rest=6),
        *_table(report["cases"], width),
        *_words(report["cases"], width),
        *(line for case in failing for line in _findings(case, width)),
        *_not_verified(report["cases"], width),
        *(_wrap(f"suite: {caught(report['mutation'])}", width, rest=7) if report.get("mutation") else []),
        *_wrap(f"target  {report['target']}", width, rest=8),
        *_wrap(f"images  {report['images']['source']}", width, rest=8),
        *_wrap(f"device  {env['device']}, python {env['python']}, {versions}", width, rest=8),
    ]
    return [line[:width] for line in lines]


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
    other = ("weights", "function", "hostile", "gradients function", *FORWARD, *GRADIENTS)
    return [rung["rung"] for rung in case["rungs"] if rung["rung"] not in other]


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


def _words(cases: list[Dict], width: int) -> list[str]:
    """What each case came to; many that came to the same are counted."""
    by_word: dict[str, list[Dict]] = {}
    for case in cases:
        by_word.setdefault(case["verdict"], []).append(case)
    lines = []
    for word, alike in by_word.items():
        if len(alike) > NAMED:
            lines += _wrap(f"{len(alike)} cases: {word}", width, rest=2)
            continue
        for case in alike:
            more = f": {case['detail']}" if case["detail"] and not _told_below(case) else ""
            lines += _wrap(f"{case['subject']} against {case['reference']}: {word}{more}", width, rest=2)
    return lines


def _told_below(case: Dict) -> bool:
    """Whether what there is to say stands at a rung."""
    return case["detail"] in {rung["headline"] for rung in case["rungs"] if rung["status"] != "not run"}


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
