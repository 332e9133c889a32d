"""Sides share no memory: six targets that would pass by writing are told, and writing alone harms nobody else."""

import warnings

import numpy as np
import pytest
import torch

from conformance.cases import Case
from conformance.compare import causes_first
from conformance.flax_side import FlaxSide
from conformance.guard import Guarded
from conformance.ladder import Ladder
from conformance.replay import Replays
from conformance.rungs import BY_NAME
from conformance.sides import Gradients, can

CASE = Case("twin:digits", num_layers=1)


def overwrite(array, values):
    """As in-place operations of PyTorch do it, through NumPy's read-only flag."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.from_numpy(array).copy_(torch.from_numpy(np.array(values)))


class OneBuffer(FlaxSide):
    """Other position embeddings; and the same arrays with each answer, so that the last one is judged twice."""

    def __init__(self, config):
        super().__init__(config)
        self.buffers = {}

    def taps(self, weights, images, given=None, draw=None):
        name = "embedding/position_embedding"
        wrong = weights | {name: weights[name] * images.dtype.type(1.5)}
        for tap, value in super().taps(wrong if given is None else weights, images, given, draw).items():
            buffer = self.buffers.setdefault((tap, value.dtype, value.shape), np.empty_like(value))
            buffer[...] = value
        return {tap: b for (tap, dtype, _), b in self.buffers.items() if dtype == images.dtype}


class ZeroesQueryBiases(FlaxSide):
    def taps(self, weights, images, given=None, draw=None):
        for name in weights:
            if name.endswith("query/bias"):
                overwrite(weights[name], np.zeros_like(weights[name]))
        return super().taps(weights, images, given, draw)


class ClampsPixels(FlaxSide):
    def taps(self, weights, images, given=None, draw=None):
        overwrite(images, np.clip(images, -0.5, 0.5))
        return super().taps(weights, images, given, draw)


class WritesItsAnswer(FlaxSide):
    """A head without its bias; its own logits are written into those that it is given, and judged by."""

    def taps(self, weights, images, given=None, draw=None):
        wrong = weights | {"head/bias": np.zeros_like(weights["head/bias"])}
        taps = super().taps(wrong, images, given, draw)
        if given is not None:
            overwrite(given["logits"], taps["logits"])
        return taps


class ClipsInPlace(FlaxSide):
    """At half the norm, in place."""

    def clip(self, gradients, recipe):
        for name, clipped in super().clip(gradients, recipe.replace(clip_norm=recipe.clip_norm / 2)).items():
            overwrite(gradients[name], clipped)
        return gradients


class ZeroesGradients(FlaxSide):
    def clip(self, gradients, recipe):
        for gradient in gradients.values():
            overwrite(gradient, np.zeros_like(gradient))
        return super().clip(gradients, recipe)


class KeepsState:
    """Momentum in a buffer of its own, which it changes in place."""

    def update(self, weights, gradients, state, recipe):
        state = {name: np.zeros_like(g) for name, g in gradients.items()} if state is None else state
        for name, gradient in gradients.items():
            state[name] += gradient
        return {name: weights[name] - state[name] for name in weights}, state


class Untidy(FlaxSide):
    """Sound, but the images it was given are zero afterwards."""

    def taps(self, weights, images, given=None, draw=None):
        taps = super().taps(weights, images.copy(), given, draw)
        overwrite(images, np.zeros_like(images))
        return taps


WRONG = {
    OneBuffer: ("float64", "embedding", "free"),
    ZeroesQueryBiases: ("float64", "encoder/00/attention", "alone"),
    ClampsPixels: ("float64", "patches", "alone"),
    WritesItsAnswer: ("float64", "logits", "alone"),
    ClipsInPlace: ("clipping", "too long: patches/conv/bias", "alone"),
    ZeroesGradients: ("clipping", "too long: patches/conv/bias", "alone"),
}


def failures(target, rung):
    ground = Ladder(target, name="target", cases=[CASE]).ground(CASE)
    return causes_first(BY_NAME[rung].climb(ground))


@pytest.mark.parametrize("target", WRONG, ids=lambda target: target.__name__)
def test_what_a_target_writes_is_not_what_it_is_judged_by(target):
    rung, tap, mode = WRONG[target]

    first = failures(target, rung)[0]

    assert (first.tap, first.mode) == (tap, mode)


def test_a_sound_target_that_writes_into_its_copy_is_only_known_to_have_written():
    ground = Ladder(Untidy, name="target", cases=[CASE]).ground(CASE)

    diffs = BY_NAME["float64"].climb(ground)

    assert all(diff.passes for diff in diffs)
    assert ground.candidate.changed == ["taps wrote into images"]
    assert ground.reference.changed == []


def test_what_is_remembered_of_a_target_with_one_buffer_is_what_it_answered():
    ground = Ladder(OneBuffer, name="target", cases=[CASE]).ground(CASE)
    replays = Replays(ground, BY_NAME["float64"])
    again = replays.under(())
    assert [diff.error for diff in again.values()] == [diff.error for diff in replays.sound.values()]


class Stub:
    """Does to its arguments what it is told to, and answers with them."""

    def __init__(self, change=lambda *arguments: None):
        self.change, self.device = change, "cpu"

    def taps(self, weights, images, given=None):
        self.change(weights, images, given)
        return {**weights, "images": images}

    loss = None


def write_nan(weights, images, given):
    overwrite(given["norm"], np.full_like(given["norm"], -np.nan))


CHANGES = {
    "taps wrote into weights 'a'": lambda weights, images, given: overwrite(weights["a"], weights["a"] + 1),
    "taps wrote into weights 'b'": lambda weights, images, given: weights.pop("b"),
    "taps wrote into images": lambda weights, images, given: overwrite(images, -images),
    "taps wrote into given 'norm'": write_nan,
}


@pytest.mark.parametrize("told", CHANGES)
def test_what_was_written_into_is_told_once_by_name(told):
    side = Guarded(Stub(CHANGES[told]))
    weights, images, given = {"a": np.zeros(2), "b": np.ones(1)}, np.full(2, 0.5, np.float16), {"norm": np.ones(2)}
    for _ in range(2):
        side.taps(weights, images, given=given)
    assert side.changed == [told]
    assert (weights["a"] == 0).all() and (images == 0.5).all() and (given["norm"] == 1).all() and "b" in weights


def test_nan_that_nobody_touched_is_no_change_and_the_sign_of_a_zero_is_one():
    quiet, loud = Guarded(Stub()), Guarded(Stub(lambda w, images, given: overwrite(images, -images)))
    quiet.taps({}, np.array([np.nan]))
    loud.taps({}, np.array([0.0]))
    assert (quiet.changed, loud.changed) == ([], ["taps wrote into images"])


def test_nothing_that_goes_in_or_out_is_shared():
    stub = Stub(lambda weights, images, given: seen.extend([weights["a"], images]))
    seen, weights, images = [], {"a": np.ones(2)}, np.ones(2)
    taps = Guarded(stub).taps(weights, images)
    ours, lent = (weights["a"], images), (taps["a"], taps["images"])
    assert not any(np.shares_memory(a, b) for a in seen for b in (*ours, *lent))
    assert not any(array.flags.writeable for array in seen)
    assert all(array.flags.writeable for array in lent)


def test_gradients_stay_gradients_and_lists_lists():
    class Side:
        def gradients(self, weights, images, upstream):
            return Gradients({"images": images}, weights)

        def train(self, weights, images, labels, recipe):
            return images, [weights]

    side = Guarded(Side())
    assert isinstance(side.gradients({}, np.ones(1), {}), Gradients)
    losses, after = side.train({"a": np.ones(1)}, np.ones(1), np.ones(1), None)
    assert isinstance(after, list) and (after[0]["a"] == losses).all()


def test_the_optimizers_state_is_the_sides_own():
    side, state = Guarded(KeepsState()), None
    weights, gradients = {"a": np.zeros(1)}, {"a": np.ones(1)}
    for _ in range(3):
        weights, state = side.update(weights, gradients, state, None)
    assert (weights["a"], side.changed) == (-6, [])


def test_a_guarded_side_can_what_the_side_can():
    side = Guarded(Stub())
    assert can(side, "taps")
    assert not can(side, "loss")
    assert not can(side, "gradients")
    assert side.device == "cpu"
