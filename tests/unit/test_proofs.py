"""The page of proofs says what the newest record says, and what a gate cannot see is called blind."""

import copy
import json

import numpy as np
import pytest

from conformance import proofs, unseen
from conformance.catalogue import fault_named
from conformance.exposure import Margin, measured_in, part_of, run
from conformance.faults import is_at
from conformance.mutation import (
    HABITATS,
    SURVIVES,
    faults_in,
    kill,
    of_two_functions,
    one_hides_the_other,
    random_pairs,
    score,
    sound,
)
from conformance.published import PUBLISHED, cosine_above, let_through, mean_within, within


@pytest.fixture(scope="module")
def ground():
    return sound()


def test_the_page_is_the_newest_record():
    text = proofs.PAGE.read_text()
    assert proofs.written(text, proofs.newest()) == text


def test_the_page_would_change_with_the_record():
    other = copy.deepcopy(proofs.newest())
    other["faults"][0]["caught_at"] = "elsewhere"
    assert "elsewhere" in proofs.page(other)
    assert proofs.page(other) != proofs.page(proofs.newest())


def test_the_table_of_unseen_faults_is_the_newest_record_and_would_change_with_it():
    text, recorded = proofs.PAGE.read_text(), unseen.newest()
    assert unseen.written(text, recorded) == text

    other = copy.deepcopy(recorded)
    other["rounds"][0]["faults"].pop()
    assert unseen.written(text, other) != text


def test_the_newest_record_is_of_this_catalogue_and_its_survivors_are_known():
    recorded = proofs.newest()
    planted = {(fault["habitat"], fault["name"]) for fault in recorded["faults"]}
    models = {name: HABITATS[name] for name in recorded["habitats"]}
    assert models == HABITATS
    assert planted == {(name, fault.name) for name, config in models.items() for fault in faults_in(config)}
    elsewhere = [f for f in recorded["faults"] if f["caught_by"] != f["rung"] or not is_at(f["caught_at"], f["place"])]
    unnamed = [f for f in recorded["faults"] if f["named"] != [f["name"]]]
    assert {(f["habitat"], f["name"]) for f in elsewhere} == SURVIVES.keys()
    assert {(f["habitat"], f["name"]) for f in unnamed} == SURVIVES.keys()
    assert all(f["named"] == [] for f in unnamed)  # honestly unknown, and never by another's name
    pairs = proofs.sorted_pairs(recorded["pairs"])
    assert sum(map(len, pairs.values())) == proofs.PAIRS
    assert len(pairs["both"]) >= 0.9 * (proofs.PAIRS - len(pairs["hidden"]))


@pytest.mark.parametrize(
    ("named", "hides", "kind"),
    (
        (["a", "b"], False, "both"),
        (["a"], False, "missed"),
        (["a"], True, "hidden"),
        ([], True, "missed"),
        (["c"], True, "missed"),
        (["a", "c"], True, "missed"),
    ),
)
def test_a_pair_is_hidden_only_if_the_one_that_shows_is_named(named, hides, kind):
    pair = {"planted": ["b", "a"], "named": named, "one hides the other": hides}
    assert proofs.sorted_pairs([pair])[kind] == [pair]


class OneByOne:
    """A pool without processes."""

    def __init__(self, *arguments, **named):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def map(self, function, items, chunksize):
        return map(function, items)


def test_a_record_that_was_cut_off_goes_on_where_it_ended(tmp_path, monkeypatch):
    asked = []

    def killed(planted):
        asked.append(planted)
        if len(asked) == 3:
            raise MemoryError
        habitat, name = planted
        return {"habitat": habitat, "name": name}

    monkeypatch.setattr(proofs, "ProcessPoolExecutor", OneByOne)
    monkeypatch.setattr(proofs, "_killed", killed)
    monkeypatch.setattr(proofs, "_named", lambda pair: {"planted": list(pair), "named": []})
    monkeypatch.setattr(proofs, "HABITATS", {name: HABITATS[name] for name in ("deep", "tied")})
    monkeypatch.setattr(
        proofs, "faults_in", lambda config: [fault_named("patch bias dropped"), fault_named("not clipped")]
    )
    monkeypatch.setattr(proofs, "random_pairs", lambda count: [(fault_named("not clipped"),) * 2])
    monkeypatch.setattr(proofs, "PRECISIONS", ())
    monkeypatch.setattr(proofs, "NAMES", ())
    monkeypatch.setattr(proofs, "let_through", lambda ground: [])
    file = tmp_path / "part.json"

    with pytest.raises(MemoryError):
        proofs.measured(file)
    assert len(json.loads(file.read_text())["faults"]) == 2
    found = proofs.measured(file)

    planted = [(habitat, name) for habitat in ("deep", "tied") for name in ("patch bias dropped", "not clipped")]
    assert asked == [*planted[:3], *planted[2:]]
    assert [(fault["habitat"], fault["name"]) for fault in found["faults"]] == planted
    assert len(found["pairs"]) == 1


@pytest.mark.parametrize(("precision", "exposure"), [(p, e) for p in proofs.PRECISIONS for e in measured_in(p)])
def test_a_sound_model_passes_on_inputs_that_expose(exposure, precision, ground):
    assert run(ground, exposure, precision).headline is None


@pytest.mark.parametrize(("margin", "blind"), ((0.0, True), (2.9, True), (3.1, False)))
def test_a_gate_that_only_just_sees_is_blind(margin, blind):
    assert Margin("float32", "mlp", "photographs", "the other GELU", margin).blind == blind


def test_the_parts_of_a_model():
    assert [part_of(tap) for tap in ("patches", "encoder/00/mlp", "encoder/11")] == ["patches", "mlp", "block"]


@pytest.mark.suite
def test_published_gates_let_faults_through_that_this_suite_catches(ground):
    through = {row["gate"]: set(row["let_through"]) for row in let_through(ground)}
    assert through.keys() == {gate.gate for gate in PUBLISHED}
    assert "the other GELU" in through["logits, atol 1e-3"]
    assert "decay of the wrong sign" in through["parameters after AdamW, rtol 1e-3, atol 2e-3"]
    assert "classes off by one" not in through["logits, atol 1e-1"]
    caught = kill(fault_named("decay of the wrong sign"), ground)
    assert caught.placed


def test_published_gates_are_those_rules():
    a = np.arange(1.0, 5.0)
    assert within(0.1)(a, a + 0.09)
    assert not within(0.1)(a, a + 0.11)
    assert within(0.0, relative=0.1)(a, a * 1.09)
    assert cosine_above(0.99)(a, 2 * a)
    assert not cosine_above(0.99)(a, a[::-1])
    assert mean_within(1e-3)(a, a[::-1])
    assert not mean_within(1e-3)(a, a + 1)


def test_pairs_are_of_two_faults_and_repeatable():
    pairs = random_pairs(20)
    assert all(first is not second for first, second in pairs)
    assert pairs == random_pairs(20)
    assert pairs != random_pairs(20, seed=1)


def test_a_pair_is_not_of_one_that_leaves_gradients_alone_and_one_that_is_seen_in_them():
    added, drawn, frozen = map(fault_named, ("attention not added", "Xavier's initialiser", "positions frozen"))
    assert of_two_functions(added, frozen)
    assert of_two_functions(frozen, added)
    assert not of_two_functions(added, drawn)
    assert not any(of_two_functions(*pair) for pair in random_pairs(200))


def test_one_hides_the_other_only_where_nothing_changes_without_it(ground):
    behind, never, dropped = map(fault_named, ("average a step behind", "average never used", "attention bias dropped"))
    assert one_hides_the_other(behind, never, ground)
    assert not one_hides_the_other(dropped, never, ground)


def test_the_score_of_nothing_is_none():
    assert score([]) is None
