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
        seeded = run["cases"] if run["kind"] == "conformance" else run["runs"]
        source = run["images"] if run["kind"] == "conformance" else run["settings"]
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
