"""A diagnosis names the cause, all causes, a cause in one block only, or none; and never one that is made up."""

import dataclasses
import gc
import weakref

import pytest
from rounding import ROUND_BACKWARD, ROUND_FORWARD, ROUND_TRAINING, coded

from conformance.catalogue import fault_named
from conformance.compare import Diff
from conformance.diagnose import diagnose
from conformance.faults import Fault, planted
from conformance.flax_side import FlaxSide
from conformance.mutation import kill, pair_named, remembering, sound
from conformance.replay import Replays, cleared, ruined, spoils
from conformance.rungs import BY_NAME
from conformance.torch_side import Twin
from reference.model import ACTIVATIONS
from tests.unit.ports.of_dropout import BY_THE_SHARE_KEPT

pytestmark = pytest.mark.suite


@pytest.fixture(scope="module")
def ground():
    return sound()


def against(ground, target, rung="float64"):
    return diagnose(dataclasses.replace(ground, target=target), BY_NAME[rung])


class Odd(FlaxSide):
    """Wrong in a way that is in no catalogue."""

    def taps(self, weights, images, given=None, draw=None):
        return super().taps(weights | {"norm/bias": weights["norm/bias"] ** 3}, images, given, draw)


def one_layer_with_the_other_gelu(model):
    model.encoder[1].mlp.activation = ACTIVATIONS["gelu_tanh"]


def one_norm_with_another_epsilon_and_one_layer_with_the_other_gelu(model):
    one_layer_with_the_other_gelu(model)
    model.encoder[2].norm1.eps = 1e-5


def test_the_cause_is_named_with_what_it_explains(ground):
    found = against(ground, planted(fault_named("the other GELU"), FlaxSide))

    assert [cause.name for cause in found.causes] == ["the other GELU"]
    assert found.before > 1e6
    assert found.after < 0.1
    assert found.text.startswith("explained by 'the other GELU' (jax.nn.gelu's default is ")


def test_two_faults_of_one_rung_are_named_together(ground):
    both = fault_named("LayerNorm eps 1e-5"), fault_named("head bias dropped")

    found = against(ground, planted(both[1], planted(both[0], FlaxSide)))

    assert set(found.causes) == set(both)
    assert found.after < 0.1


def test_three_faults_of_one_rung_are_named_together(ground):
    names = "LayerNorm eps 1e-5", "the other GELU", "head bias dropped"
    target = FlaxSide
    for name in names:
        target = planted(fault_named(name), target)

    assert {cause.name for cause in against(ground, target).causes} == set(names)


def test_faults_of_two_rungs_are_named_on_the_way_up(ground):
    both = fault_named("the other GELU"), fault_named("class token frozen")

    assert pair_named(*both, ground) == {fault.name for fault in both}


@pytest.mark.parametrize(
    "names",
    (
        ("LayerNorm in float32", "softmax in float32"),
        ("softmax in float32", "LayerNorm eps 1e-3"),
        ("bfloat16 products in 4 bits", "LayerNorm in float32"),
    ),
)
def test_two_faults_of_one_block_are_named_together(names, ground):
    """What one changes, the other computes with: neither is lost where both are planted."""
    assert pair_named(*map(fault_named, names), ground) == set(names)


def test_a_cause_in_one_layer_is_named_there_and_not_for_the_whole_model(ground):
    found = against(ground, coded(one_layer_with_the_other_gelu))

    assert found.causes == ()
    assert [(f.either, f.taps, f.everywhere) for f in found.findings] == [
        ((fault_named("the other GELU"),), ("encoder/01/mlp",), False)
    ]
    assert found.unexplained == ()
    assert found.text.startswith("in encoder/01/mlp, as if 'the other GELU' (jax.nn.gelu's default")


def test_nothing_is_named_for_the_first_taps_of_a_rung_that_goes_in_order(ground):
    """Where all of a batch are kept, as in an early layer, it is as if stochastic depth were not scaled."""
    found = against(ground, BY_THE_SHARE_KEPT, rung="randomness")

    assert found.text == "no known cause explains it"
    assert found.findings == ()


class InPairs(Twin):
    """Two workers of one seed: every second step has the draws of the one before."""

    def augment(self, images, labels, seed, step, recipe):
        return super().augment(images, labels, seed, step // 2, recipe)


def test_steps_that_are_alike_in_pairs_are_not_taken_for_steps_that_are_all_alike(ground):
    found = against(ground, lambda config: InPairs(config, "cpu"), rung="augmentation")

    assert found.text == "no known cause explains it"


class HeldForAStep(Twin):
    """An average that is the parameters after the first step, and stays so."""

    def averages(self, weights, images, labels, recipe):
        after = super().averages(weights, images, labels, recipe.replace(ema_decay=None))
        return after if recipe.ema_decay is None else [after[0] for _ in after]


def test_nothing_is_named_for_the_first_steps_of_a_course(ground):
    """After the first step it is as if no average were taken; later ones tell that this is not so."""
    found = against(ground, lambda config: HeldForAStep(config, "cpu"), rung="average")

    assert found.text == "no known cause explains it"


def test_two_causes_in_two_layers_are_told_apart(ground):
    found = against(ground, coded(one_norm_with_another_epsilon_and_one_layer_with_the_other_gelu))

    named = {finding.taps: [fault.name for fault in finding.either] for finding in found.findings}
    assert named == {("encoder/01/mlp",): ["the other GELU"], ("encoder/02/attention",): ["LayerNorm eps 1e-5"]}


class OneDrawForBothBranches(FlaxSide):
    """Stochastic depth drops attention and MLP of a layer together: the draws that follow have other numbers."""

    def taps(self, weights, images, given=None, draw=None):
        return super().taps(weights, images, given, draw and self.kept(draw))

    def kept(self, draw):
        first = []

        def asked(shape, keep):
            if shape[1:] != (1, 1):
                return draw(shape, keep)
            if first:
                return first.pop()
            first.append(draw(shape, keep))
            return first[0]

        return asked


def test_draws_that_only_have_other_numbers_are_not_explained_one_by_one(ground):
    found = against(ground, OneDrawForBothBranches, "randomness")

    assert (found.causes, found.findings) == ((), ())
    assert found.text == "no known cause explains it"


def test_what_was_replayed_is_freed_at_once(ground):
    gc.disable()  # which would find it, late: a gigabyte for each diagnosis is too much to wait for
    try:
        replays = Replays(dataclasses.replace(ground, target=FlaxSide), BY_NAME["float64"])
        kept = [weakref.ref(side) for side in replays.sides]
        assert len(kept) == 2
        del replays
        assert [side() for side in kept] == [None, None]
    finally:
        gc.enable()


def test_what_remains_unexplained_is_said(ground):
    found = against(ground, planted(fault_named("the other GELU"), Odd))

    assert found.causes == ()
    assert [(finding.either[0].name, finding.everywhere) for finding in found.findings] == [("the other GELU", True)]
    assert found.unexplained == ("norm",)
    assert "encoder/00/mlp, encoder/01/mlp and encoder/02/mlp explained by 'the other GELU'" in found.text
    assert found.text.endswith("; no known cause explains norm")


def test_no_known_cause_is_an_honest_answer(ground):
    found = against(ground, Odd)

    assert (found.causes, found.findings, found.unexplained) == ((), (), ("norm",))
    assert found.text == "no known cause explains it"


def test_two_hypotheses_that_cannot_be_told_apart_are_both_said_and_neither_is_named():
    one_layer = sound(sound().config.replace(num_layers=1))
    swapped = fault_named("query and key swapped")
    again = dataclasses.replace(swapped, name="the same by another name")

    found = diagnose(dataclasses.replace(one_layer, target=planted(swapped, FlaxSide)), BY_NAME["float64"])
    assert found.causes == (swapped,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conformance.diagnose.FAULTS", (swapped, again))
        found = diagnose(dataclasses.replace(one_layer, target=planted(swapped, FlaxSide)), BY_NAME["float64"])
    assert found.explained
    assert found.causes == ()
    assert "'query and key swapped'" in found.text
    assert "or 'the same by another name' (the order of a fused kernel), which cannot be told apart here" in found.text


def test_a_replay_that_raises_explains_nothing(ground):
    def fail(method, config, *arguments, **named):
        raise RuntimeError("the size of tensor a must match")

    broken = Fault("broken", "float64", "norm", "nowhere", around={"taps": fail})
    gelu = fault_named("the other GELU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conformance.diagnose.FAULTS", (broken, gelu))
        found = against(ground, planted(gelu, FlaxSide))
    assert found.causes == (gelu,)


def test_a_known_cause_is_tried_first_and_only_taken_if_it_explains(ground):
    gelu, other = fault_named("the other GELU"), fault_named("head bias dropped")
    faulty = dataclasses.replace(ground, target=planted(gelu, FlaxSide))

    assert diagnose(faulty, BY_NAME["float64"], first=[other]).causes == (gelu,)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conformance.replay.Replays.under", counted := Counted(Replays.under))
        assert diagnose(faulty, BY_NAME["float64"], first=[gelu]).causes == (gelu,)
    assert counted.calls == 1


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __get__(self, instance, owner):
        return lambda *arguments: self(instance, *arguments)

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


# Where errors are ratios


@pytest.mark.parametrize(
    ("rung", "changes"),
    (("float32", ROUND_FORWARD), ("gradients float32", ROUND_BACKWARD), ("trajectory float32", ROUND_TRAINING)),
    ids=("forward", "backward", "training"),
)
def test_rounding_that_is_in_no_catalogue_is_given_no_name(rung, changes, ground):
    for change in changes.values():
        found = against(ground, coded(change), rung)

        assert found.before > 1
        assert (found.causes, found.findings) == ((), ())


def test_a_sound_twin_has_none_of_those_faults(ground):
    diffs = BY_NAME["float32"].climb(dataclasses.replace(ground, target=lambda config: Twin(config, "cpu")))
    assert all(diff.passes for diff in diffs)


def rounding(error, own, granted=1e-7):
    """A comparison in float32: the target's error, the reference's own, and what is granted at least."""
    return Diff("mlp", "alone", error, own, 3 * max(own, granted))


@pytest.mark.parametrize(
    ("error", "own", "is_ruined"),
    (
        (1e-4, 1e-4, False),
        (1e-4, 2.9e-4, False),
        (1e-4, 3.1e-4, True),  # within three times, both ways
        (2e-8, 2.9e-7, False),  # what is granted to a sound reference is granted to this one
        (2e-8, 3.1e-7, True),
        (0.0, 0.0, False),
    ),
)
def test_a_reference_that_is_more_wrong_than_the_target_explains_nothing(error, own, is_ruined):
    healthy = rounding(1e-7, 1e-7)
    assert ruined(rounding(error, own), healthy) == is_ruined


def test_in_float64_equality_is_enough():
    assert not ruined(Diff("mlp", "alone", 1e-13, None, 1e-12), None)


def by_key(**errors):
    return {(tap, "alone"): Diff(tap, "alone", error, None, 0.0) for tap, error in errors.items()}


def test_a_fault_that_breaks_what_was_whole_spoils_and_one_that_leaves_a_failure_does_not():
    base = by_key(mlp=1.0, norm=0.0)
    assert spoils(base, base, by_key(mlp=0.0, norm=1.0))
    assert not spoils(base, base, by_key(mlp=1.0, norm=0.0))


def test_a_comparison_of_another_name_is_cleared_only_if_all_that_came_instead_hold():
    base = by_key(constant=1.0, head=1.0)
    assert cleared(base, by_key(distribution=0.0, head=1.0)) == (("constant", "alone"),)
    assert cleared(base, by_key(distribution=1.0, head=1.0)) == ()


def test_a_fault_is_killed_alike_where_the_reference_remembers(ground):
    gelu, known = fault_named("the other GELU"), remembering(ground)
    first, again, plain = (kill(gelu, on) for on in (known, known, ground))
    assert known.reference_target(ground.config) is known.reference_target(ground.config)
    assert {(k.caught_by, k.place, k.severity, k.named) for k in (first, again, plain)} == {
        ("float64", "encoder/00/mlp", plain.severity, (gelu.name,))
    }
