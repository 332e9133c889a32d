"""The worked targets: the published models are the reference's equals, and what is wrong with one is found in place."""

import contextlib
import dataclasses
import functools
import importlib
import re

import numpy as np
import pytest

import examples.timm_target
from conformance.cases import Case, load_target
from conformance.compare import causes_first
from conformance.ladder import Ladder
from conformance.rungs import BY_NAME, RUNGS
from conformance.sides import can

OBLONG = Case("twin:vit_ti16", image_size=(32, 48), num_layers=2)
SQUARE = Case("twin:vit_ti16", image_size=(32, 32), num_layers=2)  # all that equimo takes
TARGETS = {
    "timm_target:build": OBLONG,
    "transformers_target:build": OBLONG,
    "equimo_target:widened": SQUARE,
}
MODEL = ("weights", "float64", "float32", "gradients float64")


def factory(name, **changes):
    """The target, if the package that it is about is installed."""
    pytest.importorskip(name.partition("_")[0])
    return functools.partial(load_target(f"examples.{name}"), **changes)


@functools.cache
def ladder(name):
    return Ladder(factory(name), name=name, cases=[TARGETS[name]])


@pytest.mark.parametrize("rung", MODEL)
@pytest.mark.parametrize("name", TARGETS)
def test_a_published_model_is_the_same(name, rung):
    outcome = ladder(name).outcome(TARGETS[name], rung)
    assert (outcome.status, outcome.headline) == ("pass", None)
    assert outcome.diffs


WRONG = (
    ("transformers_target:build", {"hidden_act": "gelu_pytorch_tanh"}, "encoder/00/mlp"),
    ("transformers_target:build", {"layer_norm_eps": 1e-12}, "encoder/00/attention"),
    ("transformers_target:build", {"attn_implementation": "eager"}, "encoder/00/attention"),
    ("timm_target:build", {"global_pool": "avg", "fc_norm": False}, "logits"),
    ("equimo_target:build", {}, "encoder/00/attention"),
)


@pytest.mark.parametrize(("name", "changes", "tap"), WRONG)
def test_what_is_wrong_is_found_where_it_is(name, changes, tap):
    case = SQUARE if name.startswith("equimo") else OBLONG
    headline = Ladder(factory(name, **changes), name=name, cases=[case]).compare(case, "float64").headline
    assert (headline.tap, headline.mode) == (tap, "alone")


def test_a_layout_that_swaps_query_and_key_is_found():
    build, layout = factory("transformers_target:build"), importlib.import_module("examples.transformers_target").LAYOUT
    swapped = {"q_proj": "k_proj", "k_proj": "q_proj"}
    table = tuple(
        dataclasses.replace(rule, foreign=re.sub("[qk]_proj", lambda found: swapped[found[0]], rule.foreign))
        for rule in layout.table
    )
    wrong = functools.partial(build, layout=dataclasses.replace(layout, table=table))
    headline = Ladder(wrong, name="swapped", cases=[OBLONG]).compare(OBLONG, "float64").headline
    assert (headline.tap, headline.mode) == ("encoder/00/attention", "alone")


def test_timm_has_every_kind_of_dropout():
    assert ladder("timm_target:build").outcome(OBLONG, "randomness").status == "pass"


def test_timm_rounds_the_rates_of_stochastic_depth(monkeypatch):
    monkeypatch.setattr(examples.timm_target, "float64_by_default", contextlib.nullcontext)
    ladder = Ladder(examples.timm_target.build, name="rounded", cases=[OBLONG])
    failures = causes_first(BY_NAME["randomness"].climb(ladder.ground(OBLONG)))
    assert {diff.tap for diff in failures} == {"draw 07", "draw 10"}  # of the second layer; the first has a rate of 0
    assert str(failures[0]).startswith("draw 07 alone: off by 1.7e-09")


def test_a_target_borrows_no_rule_of_the_reference():
    side = ladder("timm_target:build").ground(OBLONG).candidate
    capabilities = {capability for rung in RUNGS for capability in rung.capabilities}
    assert {name for name in capabilities if can(side, name)} == {"held", "taps", "gradients", "drawn"}


def test_equimo_takes_square_images_only():
    with pytest.raises(ValueError, match="square images only, not 32x48"):
        factory("equimo_target:build")(OBLONG.config)


def test_equimo_takes_all_arrays_or_none():
    pytest.importorskip("equimo")
    filled, model = (load_target(f"examples.equimo_target:{name}") for name in ("_filled", "_model"))
    with pytest.raises(ValueError, match="missing, first 'patch_embed"):
        filled(model(SQUARE.config), {"cls_token": np.zeros((1, 192))})
