"""The README's figures come from results/, and only from there."""

import json

import pytest

from conformance import tables

README = (tables.ROOT / "README.md").read_text()


def test_readme_tables_are_the_newest_recorded_runs():
    assert tables.readme(README) == README


def test_an_edited_figure_would_be_seen():
    conformance = next(rung["worst"] for rung in tables.newest()["cases"][0]["rungs"] if rung["rung"] == "float64")
    for figure in (conformance, *(f"{run['mean']:.4f}" for run in tables.training_runs())):
        edited = README.replace(figure, "1.0e-16", 1)
        assert edited != README
        assert tables.readme(edited) != edited


def test_every_recorded_run_says_device_versions_data_and_seeds():
    for path in tables.RESULTS.glob("*.json"):
        run = json.loads(path.read_text())
        assert run["environment"]["device"], path
        assert run["environment"]["packages"], path
        if run["kind"] in ("proofs", "experiments"):  # weights of seed 0 on the default photographs; random images
            continue
        seeded = {"conformance": run.get("cases"), "training": run.get("runs"), "speed": [run]}[run["kind"]]
        source = run["settings"] if run["kind"] == "training" else run["images"]
        assert source["source"], path
        assert all("seed" in each for each in seeded), path


def test_a_recorded_run_is_never_overwritten(tmp_path, monkeypatch):
    recorded = tables.newest()
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    source = tmp_path / "report.json"
    for case in recorded["cases"]:
        for rung in case["rungs"]:
            rung["diffs"] = []
    source.write_text(json.dumps(recorded))

    tables.record(source)

    with pytest.raises(FileExistsError):
        tables.record(source)


def row(run):
    """The cells of the first case."""
    return [cell.strip() for cell in tables.conformance_table(run).splitlines()[2].strip("|").split("|")]


OLDER = json.loads((tables.RESULTS / "2026-11-22T1527-conformance-cpu.json").read_text())  # of a ladder of four rungs


def test_an_older_record_has_dashes_for_rungs_it_did_not_know():
    assert row(OLDER)[4:] == ["3.2e-15", "1.44x", "1.55x", "–", "–", "–"]
    assert "known faults" not in tables.conformance_table(OLDER)


def test_a_newer_record_has_its_figures_and_says_what_is_none():
    rungs = [
        {"rung": "float16", "status": "pass", "worst": "1.48x"},
        {"rung": "gradients float64", "status": "not verified", "worst": ""},
        {"rung": "trajectory", "status": "not run", "worst": ""},
    ]
    case = OLDER["cases"][0]
    mutation = {"faults": 116, "killed": 115, "placed": 114, "diagnosed": 113}
    newer = OLDER | {"mutation": mutation, "cases": [case | {"rungs": case["rungs"] + rungs}]}
    assert row(newer)[7:] == ["1.48x", "not verified", "–"]
    assert row(newer | {"cases": [case | {"rungs": [rungs[2] | {"status": "pass", "worst": "2e-13"}]}]})[9] == "2e-13"
    assert "115 of 116 known faults caught, 114 at the right place" in tables.conformance_table(newer)


def test_every_row_has_a_cell_for_every_heading():
    head, rule, *rest = tables.conformance_table(OLDER).splitlines()
    rows = [line for line in rest if line.startswith("|")]
    assert len(rows) == len(OLDER["cases"])
    assert {line.count("|") for line in (rule, *rows)} == {head.count("|")}


def test_condensing_keeps_status_time_and_the_worst_figure_alone():
    diffs = [{"tap": "logits", "error": error, "limit": 1e-12, "status": "pass"} for error in (1e-15, 2e-15)]
    rung = {"rung": "gradients float64", "status": "pass", "seconds": 1.5, "diffs": diffs, "headline": None}
    kept = tables.condensed({"cases": [{"id": "a", "rungs": [rung]}]})
    worst = {"rung": "gradients float64", "status": "pass", "seconds": 1.5, "worst": "2.0e-15"}
    assert kept == {"kind": "conformance", "cases": [{"id": "a", "rungs": [worst]}]}
