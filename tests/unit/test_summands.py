"""How large gradients are where nothing cancels: the formula is the model's own, and without it a sound side fails."""

import numpy as np
import pytest
from einops import einsum, rearrange

from conformance import summands
from conformance.flax_side import FlaxSide
from conformance.gradients import compare_gradients, random_upstream
from conformance.mutation import HABITATS, sound
from conformance.precision import rounded
from conformance.summands import Backward, of_queries_and_keys, with_random_signs
from conformance.tolerances import FLOAT64
from conformance.weights import random_weights


def backward_of_layer(habitat, layer):
    """One attention of a sound model, alone, and the reference's gradients of its leaves."""
    ground = sound(HABITATS[habitat].replace(share_layers=False))
    weights = rounded(random_weights(ground.config, 0), "float64")
    images = ground.images.astype(np.float64)
    upstream = {"logits": random_upstream((len(images), ground.config.num_classes), "float64")}
    taps = ground.reference.taps(weights, images)
    theirs = ground.reference.gradients(weights, images, upstream)
    arriving = {tap: theirs.inputs[tap] for tap in taps}
    return Backward.of(ground.config, weights, taps, arriving, layer), theirs.parameters


def leaves(attention, scores):
    """The gradients of its leaves, from those of its scores."""
    of_queries = attention.scale * scores @ attention.key
    of_keys = attention.scale * scores.swapaxes(-1, -2) @ attention.query
    found = {}
    for part, of_heads in (("query", of_queries), ("key", of_keys)):
        of_tokens = rearrange(of_heads, "b h t k -> b t (h k)")
        found[f"{part}/kernel"] = einsum(attention.x, of_tokens, "b t i, b t o -> i o")
        found[f"{part}/bias"] = of_tokens.sum(axis=(0, 1))
    return found


@pytest.mark.parametrize("habitat", HABITATS)
def test_the_backward_pass_is_the_references_own(habitat):
    attention, theirs = backward_of_layer(habitat, 1)
    mean = (attention.shares * attention.gradients).sum(axis=-1, keepdims=True)

    found = leaves(attention, attention.shares * (attention.gradients - mean))

    for leaf, gradient in found.items():
        own = theirs[f"encoder/01/attention/{leaf}"]
        kernel = theirs[f"encoder/01/attention/{leaf.replace('/bias', '/kernel')}"]  # a keys' bias has no gradient
        assert np.abs(gradient - own).max() <= FLOAT64 * np.abs(kernel).max(), leaf


@pytest.mark.parametrize("habitat", HABITATS)
def test_the_squares_are_the_mean_square_under_random_signs(habitat):
    attention, _ = backward_of_layer(habitat, 1)
    rng = np.random.default_rng(0)
    shares, means = attention.shares, attention.rough_means()
    draws = []
    for _ in range(1000):
        each = rng.choice((-1.0, 1.0), size=shares.shape)
        all_keys = rng.choice((-1.0, 1.0), size=means.shape)
        draws.append(leaves(attention, shares * (each * attention.gradients + all_keys * means)))

    for leaf, square in attention.squares().items():
        measured = np.mean([draw[leaf] ** 2 for draw in draws], axis=0)
        assert 0.95 < measured.sum() / square.sum() < 1.05, leaf
        assert 0.7 < (measured / square).min() < (measured / square).max() < 1.4, leaf


def test_layers_that_share_their_weights_add_up():
    ground = sound(HABITATS["tied"])
    config = ground.config
    weights, images = rounded(ground.weights, "float64"), ground.images.astype(np.float64)
    taps = ground.reference.taps(weights, images)
    layers = [Backward.of(config, weights, taps, taps, layer).squares() for layer in range(config.num_layers)]

    sizes = of_queries_and_keys(config, weights, taps, taps)

    assert len(sizes) == 4 < 4 * config.num_layers
    for leaf in layers[0]:
        summed = sum(squares[leaf] for squares in layers)
        assert np.abs(sizes[f"encoder/00/attention/{leaf}"] ** 2 - summed).max() <= FLOAT64 * summed.max()


def signed(terms, seed=0, alike=False):
    return with_random_signs({"tap": terms}, np.random.default_rng(seed), alike)["tap"]


def test_random_signs_show_how_large_a_sum_is_without_cancellation():
    terms = np.concatenate([np.ones((1, 500, 1)), -np.ones((1, 500, 1))], axis=1)  # they add up to nothing

    sums = [signed(terms, seed).sum() for seed in range(400)]

    assert terms.sum() == 0
    assert 0.9 < np.sqrt(np.mean(np.square(sums)) / 1000) < 1.1


def test_signs_of_images_show_how_large_a_sum_grows_before_other_images_cancel_it():
    terms = np.concatenate([np.ones((500, 8, 1)), -np.ones((500, 8, 1))])  # eight tokens of one value in each image

    sums = [signed(terms, seed, alike=True).sum() for seed in range(400)]

    assert terms.sum() == 0
    assert 0.9 < np.sqrt(np.mean(np.square(sums)) / (1000 * 8**2)) < 1.1


def test_all_features_of_a_token_get_the_same_sign():
    by_token = signed(np.ones((2, 5, 7)))
    assert (by_token == by_token[..., :1]).all()
    assert set(by_token.ravel()) == {-1.0, 1.0}


# Deep layers with random weights make tokens alike: of the queries' gradients a hundredth is left.
def compared(seed, precision="float32"):
    ground = sound(HABITATS["deep"])
    weights = random_weights(ground.config, seed)
    diffs = compare_gradients(
        FlaxSide(ground.config), ground.reference, ground.config, weights, ground.images, precision
    )
    return {(diff.tap, diff.mode): diff for diff in diffs}


def test_a_seed_that_raised_a_false_alarm_raises_none_as_what_softmax_hides_is_granted(monkeypatch):
    granted = compared(182)
    monkeypatch.setattr(summands, "of_queries_and_keys", lambda *arguments: {})
    hidden = compared(182)

    assert [str(diff) for diff in granted.values() if not diff.passes] == []
    alarm = "encoder/06/attention/query/bias", "alone"
    assert granted[alarm].limit > 1.5 * hidden[alarm].limit  # it was exceeded by 1.42, with jax 0.12 on a CPU
    alike = "encoder/06/attention/value/kernel", "alone"
    assert granted[alike].limit == hidden[alike].limit


def test_what_all_keys_of_a_query_share_is_granted_where_keys_are_alike(monkeypatch):
    granted = compared(166)
    monkeypatch.setattr(Backward, "rough_means", lambda attention: np.zeros_like(attention.gradients[..., :1]))
    not_shared = compared(166)

    def widened(layer):
        place = f"encoder/{layer}/attention/query/bias", "alone"
        return granted[place].limit / not_shared[place].limit

    assert widened("07") > 1.2
    assert 1 <= widened("00") < widened("07")


def test_what_a_sum_grows_to_before_other_images_cancel_it_is_granted(monkeypatch):
    granted = compared(683, "bfloat16")
    monkeypatch.setattr(
        summands,
        "with_random_signs",
        lambda arriving, rng, alike: {tap: x * (0 if alike else 1) for tap, x in arriving.items()},
    )
    cancelled = compared(683, "bfloat16")

    assert [str(diff) for diff in granted.values() if not diff.passes] == []
    bias = "embedding/projection/bias", "alone"
    assert granted[bias].limit > 1.4 * cancelled[bias].limit  # of which 0.89 were used with signs by token alone
