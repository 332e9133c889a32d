"""Seeds are trained one after the other, and the record says what was reached, on what."""

import json

import numpy as np
import pytest

from conformance import tables
from vit_flax import settlement
from vit_flax.config import PRESETS
from vit_flax.data import Data, Dataset
from vit_flax.run import Stopped
from vit_flax.settlement import Settlement, record_name, summary, train_seeds

pytestmark = pytest.mark.usefixtures("quickly_compiled", "one_layer")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)

    def dataset(count):
        return Dataset(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), np.arange(count, dtype=np.int32) % 2)

    return Data(dataset(128), dataset(9), dataset(11), ("even", "odd"), "toy")


@pytest.fixture(scope="module")
def record(data, tmp_path_factory):
    return train_seeds("digits", "digits", (0, 7), data, None, tmp_path_factory.mktemp("runs"), stop_after=1)


def test_a_record_says_what_was_trained_on_what_and_how_far(record):
    assert record["kind"] == "training"
    assert [run["seed"] for run in record["runs"]] == [0, 7]
    assert record["epochs"] == 1
    assert record["settings"]["recipe"]["epochs"] == 60
    assert record["settings"]["source"] == "toy"
    assert record["environment"]["device"]
    assert record["compile_seconds"] > 0
    assert record_name(record).endswith("-training-digits-digits-cpu.json")
    assert json.loads(json.dumps(record))["runs"] == record["runs"]


def test_no_path_gets_into_a_record(data, tmp_path):
    folder = tmp_path / "private"
    record = train_seeds("digits", "digits", (0,), data, str(folder / "data"), folder, stop_after=1)
    assert "private" not in json.dumps(record)


def test_what_is_there_is_not_trained_again(data, tmp_path, monkeypatch):
    first = train_seeds("digits", "digits", (0,), data, None, tmp_path, stop_after=1)
    calls = []
    monkeypatch.setattr("vit_flax.loop.train_epoch", lambda *args: calls.append(args))
    again = train_seeds("digits", "digits", (0,), data, None, tmp_path, stop_after=1)
    assert calls == []
    assert again["runs"] == first["runs"]


def test_a_folder_with_a_run_of_other_settings_is_refused(data, tmp_path):
    train_seeds("digits", "digits", (0,), data, None, tmp_path, stop_after=1)
    inverted = Dataset(255 - data.train.images, data.train.labels)
    other = Data(inverted, data.validation, data.test, data.classes, "other")
    with pytest.raises(ValueError, match=r"holds a run with other settings: source was 'toy', not 'other'; digest was"):
        train_seeds("digits", "digits", (0,), other, None, tmp_path)


def test_the_mean_is_over_seeds_and_its_spread_that_of_a_sample(record):
    settings = type("Settings", (), {"steps_per_epoch": 10, "recipe": type("Recipe", (), {"batch_size": 5})})
    runs = [
        {"test_acc": acc, "history": [{"seconds": 2.0}, {"seconds": 4.0}, {"seconds": 4.0}]} for acc in (0.5, 0.7, 0.9)
    ]
    found = summary(runs, settings)
    assert found == {"mean": 0.7, "sd": 0.2, "epochs": 3, "seconds": 10.0, "images_per_second": 12.5}
    assert summary(runs[:1], settings)["sd"] is None


OPTIONS = ("--recipe", "digits", "--stop-after", "1")


@pytest.fixture
def settle(data, tmp_path, monkeypatch):
    """The command on toy data: its exit status and its records by preset."""
    monkeypatch.setattr(settlement, "read_data", lambda source: data)
    folders = ("--runs", str(tmp_path / "runs"), "--record", str(tmp_path / "records"))

    def settle(*options):
        status = settlement.main([*OPTIONS, *folders, *options])
        records = [json.loads(file.read_text()) for file in (tmp_path / "records").iterdir()]
        return status, {record["settings"]["preset"]: record for record in records}

    return settle


def test_the_command_records_each_preset(settle, capsys):
    status, records = settle("--presets", "digits", "--seeds", "3")
    assert status == 0
    assert [run["seed"] for run in records["digits"]["runs"]] == [3]
    assert "digits: test_acc" in capsys.readouterr().out


def test_the_first_seed_of_every_preset_comes_before_the_second_of_any(settle, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "other", PRESETS["digits"].replace(mlp_dim=8))
    _, records = settle("--presets", "digits", "other", "--seeds", "0", "1")
    said = [line.split(" (")[1] for line in capsys.readouterr().out.splitlines()]
    assert said == ["seeds: 0)", "seeds: 0)", "seeds: 0, 1)", "seeds: 0, 1)"]
    assert {preset: len(record["runs"]) for preset, record in records.items()} == {"digits": 2, "other": 2}


def test_at_the_deadline_all_is_kept_and_the_same_command_goes_on(settle, capsys):
    status, records = settle("--presets", "digits", "--seeds", "0", "--deadline", "0")
    assert (status, records) == (0, {})
    assert "stopped after step 0 of digits, seed 0: to go on, give the same command again" in capsys.readouterr().out
    status, records = settle("--presets", "digits", "--seeds", "0")
    assert (status, len(records["digits"]["runs"])) == (0, 1)


def test_a_run_that_is_stopped_is_recorded_as_what_it_is_unless_others_came_further(data, tmp_path):
    now = iter([False, True])  # at the start, after the first epoch
    found = Settlement("digits", data, None, tmp_path, stop=lambda: next(now))
    with pytest.raises(Stopped):
        found.train("digits", 0)
    assert (found.record("digits")["epochs"], len(found.record("digits")["runs"])) == (1, 1)
    found.how = dict(stop_after=2)
    found.train("digits", 1)
    assert [run["seed"] for run in found.record("digits")["runs"]] == [1]


def test_the_table_has_a_row_for_each_record(record):
    table = tables.training_table([record])
    row = next(line for line in table.splitlines() if line.startswith("| digits"))
    assert f"{record['mean']:.4f} ± {record['sd']:.4f}" in row
    assert "| 1 of 60 | 0, 7 |" in row
    assert "digits (1): toy. Device: cpu" in table


def test_models_trained_alike_share_a_line_of_conditions(record):
    other = record | {"settings": record["settings"] | {"preset": "other"}}
    later = record | {"settings": record["settings"] | {"preset": "late"}, "created": "2100-01-01T00:00"}
    lines = tables.training_table([other, later, record]).splitlines()
    shared = [line.partition(":")[0] for line in lines if "Device" in line]
    assert shared == ["digits (1), other (1)", "late (1)"]


def test_a_longer_run_does_not_hide_a_shorter_one(record, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for day, epochs, mean in ((1, 1, 0.1), (2, 1, 0.2), (3, 5, 0.5)):
        path = tmp_path / f"2026-01-0{day}T0000-training-digits-digits-cpu.json"
        path.write_text(json.dumps(record | {"epochs": epochs, "mean": mean}))
    assert [(run["epochs"], run["mean"]) for run in tables.training_runs()] == [(1, 0.2), (5, 0.5)]
