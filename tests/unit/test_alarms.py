"""A sweep for false alarms counts them, goes on where it was cut off, and its page says what its record says."""

import dataclasses
import json
import math

import numpy as np
import pytest

from conformance import alarms
from conformance.alarms import Worst, add, chance_of_alarm, new_record, page, sweep, swept
from conformance.catalogue import fault_named
from conformance.faults import planted
from conformance.mutation import HABITATS, sound


def record_of(found, rung="float32", habitat="deep"):
    record = new_record()
    add(record, rung, habitat, found)
    return record


def test_a_sound_model_raises_no_alarm():
    found = swept("float32", sound(), range(3))
    assert [worst.seed for worst in found] == [0, 1, 2]
    assert len({worst.share for worst in found}) == 3  # each seed is another model
    assert not any(worst.is_alarm for worst in found)


def test_a_model_that_rounds_worse_raises_one_for_every_seed():
    ground = sound()
    worse = planted(fault_named("float32 products in TF32"), ground.target)
    found = swept("float32", dataclasses.replace(ground, target=worse), range(2))
    assert all(worst.is_alarm and worst.share > 1 for worst in found)
    (entry,) = record_of(found)["sweeps"]
    assert [alarm.split(":")[0] for alarm in entry["alarms"]] == ["seed 0", "seed 1"]


def test_an_error_that_is_no_number_is_an_alarm():
    assert Worst(0, math.nan, "images free").is_alarm
    assert Worst(0, math.inf, "images free").is_alarm
    assert not Worst(0, 1.0, "images free").is_alarm


def test_the_chance_of_an_alarm_is_that_of_the_tail():
    rng = np.random.default_rng(0)
    shares = np.sort(0.2 * rng.random(100_000) ** (-1 / 4))[::-1]  # beyond x with probability (0.2 / x)^4
    assert 1 / 2 < chance_of_alarm(shares[:1000], len(shares)) / 0.2**4 < 3 / 2


def test_the_chance_of_an_alarm_is_no_underestimate_where_errors_are_log_normal():
    rng = np.random.default_rng(0)
    shares = np.sort(np.exp(rng.normal(math.log(0.4), 0.2, 3000)))[::-1]
    beyond = math.erfc(-math.log(0.4) / 0.2 / math.sqrt(2)) / 2  # one in 430,000: far from all that were seen
    assert shares[0] < 1
    assert beyond <= chance_of_alarm(shares[:100], len(shares))


@pytest.mark.parametrize(("share", "chance"), ((1 / 3, 0.0), (1.1, 1.0)))
def test_where_all_seeds_come_equally_near_the_next_one_does_too(share, chance):
    assert chance_of_alarm([share] * 100, 3000) == chance


def test_chunks_add_up_and_the_largest_are_kept(monkeypatch):
    monkeypatch.setattr(alarms, "KEPT", 2)
    record = record_of([Worst(0, 0.5, "a"), Worst(1, 0.3, "b")])
    add(record, "float32", "deep", [Worst(2, 0.4, "c")])
    (entry,) = record["sweeps"]
    assert entry["seeds"] == 3
    assert [kept["seed"] for kept in entry["largest"]] == [0, 2]


def test_a_sweep_goes_on_where_its_file_ends(tmp_path, monkeypatch):
    asked = []

    def remembered(rung, ground, seeds):
        asked.extend((rung, ground.config, seed) for seed in seeds)
        return [Worst(seed, 0.5, "images free") for seed in seeds]

    monkeypatch.setattr(alarms, "CHUNK", 2)
    monkeypatch.setattr(alarms, "swept", remembered)
    file = tmp_path / "alarms.json"

    sweep(file, 3, ["float32"])
    sweep(file, 5, ["float32"])

    assert sorted(seed for _, config, seed in asked if config == HABITATS["deep"]) == [0, 1, 2, 3, 4]
    assert {entry["seeds"] for entry in json.loads(file.read_text())["sweeps"]} == {5}


def test_a_sweep_that_goes_on_elsewhere_tells_both_devices_and_commits(tmp_path, monkeypatch):
    monkeypatch.setattr(
        alarms, "swept", lambda rung, ground, seeds: [Worst(seed, 0.5, "patches free") for seed in seeds]
    )
    record = new_record()
    here = record["environment"]["device"]
    record["environment"] |= {"device": "abacus (slow)", "commit": "f00"}
    file = tmp_path / "alarms.json"
    file.write_text(json.dumps(record))

    for seeds in (1, 2):  # the second time nothing is new
        sweep(file, seeds, ["float32"])

    told = json.loads(file.read_text())["environment"]
    assert told["device"] == f"abacus (slow); {here}"
    assert told["commit"].startswith("f00; ")


def test_a_sweep_of_other_versions_is_not_continued(tmp_path):
    record = new_record()
    record["environment"]["packages"]["jax"] = "0.0.1"
    (tmp_path / "alarms.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"alarms\.json was begun with other versions"):
        sweep(tmp_path / "alarms.json", 1)


def test_the_page_is_the_newest_record():
    text = alarms.PAGE.read_text()
    assert alarms.written(text, alarms.newest()) == text


def test_the_page_would_change_with_the_record():
    record = alarms.newest()
    before = page(record)
    record["sweeps"][0]["alarms"].append("seed 7: images free at 1.10 of its limit")
    assert page(record) != before


def test_the_newest_record_has_every_rung_and_habitat_and_no_alarm():
    sweeps = alarms.newest()["sweeps"]
    assert {(s["rung"], s["habitat"]) for s in sweeps} == {(r, h) for r in alarms.RUNGS for h in HABITATS}
    assert all(s["alarms"] == [] for s in sweeps)
