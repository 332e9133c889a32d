"""The training code's own slips, made in `vit_flax` itself, are seen by the rungs; sound code passes them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import torch

from conformance.augmentation import CHECKS, ERASING, _erasing, _mixup, _trivial
from conformance.catalogue import AROUND
from conformance.compare import causes_first
from conformance.diagnose import diagnose
from conformance.flax_side import FlaxSide, _idle_state, _step_inputs, _train_step
from conformance.loop import EXAMPLES, compare_epochs
from conformance.mutation import sound
from conformance.rungs import BY_NAME
from conformance.torch_side import Twin
from conformance.training import PLAIN, PLAN, STEPS, compare_loss, compare_narrow_loss, half_clipped, training_batches
from reference import loop
from vit_flax import erase, train, trivial_augment
from vit_flax.config import preset
from vit_flax.train import TrainState
from vit_flax.trivial_augment import OPERATIONS

CONFIG = preset("digits").replace(num_layers=1)
pytestmark = pytest.mark.usefixtures("quickly_compiled")


@functools.cache
def ground():
    return sound(CONFIG)


@pytest.fixture
def compiled_anew():
    """What is planted in code is compiled in, and must not be found there later."""
    for function in (_train_step, _step_inputs, train._classified):
        function.clear_cache()
    _idle_state.cache_clear()
    yield
    for function in (_train_step, _step_inputs, train._classified):
        function.clear_cache()
    _idle_state.cache_clear()


def first_failure(rung):
    return next((diff.tap for diff in causes_first(BY_NAME[rung].climb(ground()))), None)


@pytest.mark.parametrize("rung", ("trajectory", "trajectory float32", *dict.fromkeys(fault.rung for fault in AROUND)))
def test_sound_training_code_passes(rung):
    assert first_failure(rung) is None


def changing_gradients(change):
    sound_step = TrainState.apply_gradients

    def apply_gradients(self, *, grads):
        return sound_step(self, grads=jax.tree.map(change, grads))

    return apply_gradients


def test_gradients_that_are_summed_are_seen(monkeypatch, compiled_anew):
    monkeypatch.setattr(TrainState, "apply_gradients", changing_gradients(lambda g: 4 * g))
    assert first_failure("trajectory") == "SGD, step 01/parameters"


def test_a_leaf_that_is_not_trained_is_told_and_no_crash():
    class Lacking(Twin):
        def train(self, *arguments):
            losses, after = super().train(*arguments)
            return losses, [{leaf: x for leaf, x in now.items() if leaf != "norm/bias"} for now in after]

    diffs = BY_NAME["trajectory float32"].climb(dataclasses.replace(ground(), target=lambda c: Lacking(c, "cpu")))
    assert [diff.tap for diff in diffs if not diff.passes] == ["step 01/gradient"]
    assert "shape" in next(diff.problem for diff in diffs if not diff.passes)


@pytest.mark.parametrize("rung", ["trajectory", "trajectory float32"])
def test_gradients_in_bfloat16_are_seen(monkeypatch, compiled_anew, rung):
    narrow = changing_gradients(lambda g: jax.lax.reduce_precision(g, exponent_bits=8, mantissa_bits=7))
    monkeypatch.setattr(TrainState, "apply_gradients", narrow)
    assert first_failure(rung) is not None


def test_a_key_that_never_changes_is_seen(monkeypatch, compiled_anew):
    monkeypatch.setattr(jax.random, "fold_in", lambda key, number: key)
    assert first_failure("noise") == "steps with a draw had before"
    assert first_failure("augmentation") == "flips, alike from step to step"
    assert first_failure("epochs") == "epochs in an order had before"


def test_flips_of_whole_batches_are_seen(monkeypatch, compiled_anew):
    draw = jax.random.bernoulli
    monkeypatch.setattr(jax.random, "bernoulli", lambda key, p, shape: jnp.broadcast_to(draw(key, p, (1,)), shape))
    assert first_failure("augmentation") == "flips, alike from image to image"


def erasing(change):
    """vit_flax's erasing, with something done to what comes out of it: `change(rng, images, erased)`."""
    return lambda rng, images, probability: change(rng, images, train_erase(rng, images, probability))


train_erase = train.erase
ERASED_OTHERWISE = {
    "erasing, share": lambda rng, images, erased: train_erase(rng, images, 0.5),
    "erasing, alike from image to image": lambda rng, images, erased: jnp.where(
        (erased != images)[:1], erased[:1], images
    ),
    "erasing, alike from step to step": lambda rng, images, erased: train_erase(jax.random.key(0), images, ERASING),
    "erasing, whole rectangles": lambda rng, images, erased: jnp.where(
        jax.random.bernoulli(rng, 0.9, images.shape[:3])[..., None], erased, images
    ),
    "erasing, values that come again": lambda rng, images, erased: jnp.where(erased != images, 0, images),
    "erasing, mean of the values": lambda rng, images, erased: jnp.where(erased != images, erased + 0.1, images),
    "erasing, mean square of the values": lambda rng, images, erased: jnp.where(erased != images, erased * 1.1, images),
}
RECTANGLES_OTHERWISE = {
    "erasing, area": lambda top, left, tall, wide: (top, left, (tall + 1) // 2, (wide + 1) // 2),
    "erasing, ratio": lambda top, left, tall, wide: (
        0 * top,
        0 * left,
        jnp.maximum(tall, wide),
        jnp.minimum(tall, wide),
    ),
    "erasing, top": lambda top, left, tall, wide: (top // 2, left, tall, wide),
    "erasing, left": lambda top, left, tall, wide: (top, left // 2, tall, wide),
}


def erasing_failures():
    return [diff.tap for diff in _erasing(FlaxSide(CONFIG), Twin(CONFIG, "cpu"), CONFIG) if not diff.passes]


@pytest.mark.parametrize("place", ERASED_OTHERWISE)
def test_what_is_erased_otherwise_is_seen(monkeypatch, compiled_anew, place):
    monkeypatch.setattr(train, "erase", erasing(ERASED_OTHERWISE[place]))
    assert erasing_failures()[0] == place


@pytest.mark.parametrize("place", RECTANGLES_OTHERWISE)
def test_rectangles_that_are_drawn_otherwise_are_seen(monkeypatch, compiled_anew, place):
    draw = erase.draw_rectangles
    monkeypatch.setattr(erase, "draw_rectangles", lambda *arguments: RECTANGLES_OTHERWISE[place](*draw(*arguments)))
    # Rectangles that are smaller, or further up, also reach the last row and column less often.
    assert next(tap for tap in erasing_failures() if "in the last" not in tap) == place


TRIVIALLY_OTHERWISE = {
    "TrivialAugment, images left as they are": lambda operations, magnitudes: (operations, 0 * magnitudes),
    "TrivialAugment, alike from image to image": lambda operations, magnitudes: (
        operations[0] + 0 * operations,
        magnitudes[0] + 0 * magnitudes,
    ),
    "TrivialAugment, change": lambda operations, magnitudes: (
        jnp.where(operations == OPERATIONS.index("Rotate"), OPERATIONS.index("TranslateX"), operations),
        magnitudes / 4,
    ),
}


@pytest.mark.parametrize("place", TRIVIALLY_OTHERWISE)
def test_what_is_drawn_otherwise_for_trivial_augment_is_seen(monkeypatch, compiled_anew, place):
    draw = trivial_augment.draw
    monkeypatch.setattr(trivial_augment, "draw", lambda *arguments: TRIVIALLY_OTHERWISE[place](*draw(*arguments)))
    diffs = _trivial(FlaxSide(CONFIG), Twin(CONFIG, "cpu"), CONFIG)
    assert next(diff.tap for diff in diffs if not diff.passes) == place


def test_false_alarms_are_shared_out_among_all_that_is_drawn_in_augmentation():
    diffs = BY_NAME["augmentation"].climb(ground())
    statistical = [diff for diff in diffs if diff.limit > 0 and not diff.tap.startswith("as they are")]
    assert len(statistical) == CHECKS


def test_targets_that_are_not_mixed_are_seen(monkeypatch, compiled_anew):
    mix = train.mix
    monkeypatch.setattr(
        train, "mix", lambda rng, images, targets, *alphas: (mix(rng, images, targets, *alphas)[0], targets)
    )
    assert first_failure("augmentation") == "mixup, targets that say what is seen"


def test_a_loss_that_stays_in_bfloat16_is_seen(monkeypatch):
    def cross_entropy(logits, targets, mask=None):
        return train.loss.masked_mean(optax.softmax_cross_entropy(logits, targets.astype(logits.dtype)), mask)

    monkeypatch.setattr(train.loss, "cross_entropy", cross_entropy)
    assert first_failure("loss") is None
    assert first_failure("loss bfloat16") == "loss, smoothing 0, image by image"


def test_a_gradient_worse_than_bfloat16s_is_seen():
    class Coarse(FlaxSide):
        def loss(self, logits, labels, mask, recipe):
            value, gradient = super().loss(logits, labels, mask, recipe)
            return value, gradient.astype(ml_dtypes.float8_e4m3fn).astype(gradient.dtype)

    failures = causes_first(compare_narrow_loss(Coarse(CONFIG), Twin(CONFIG, "cpu"), CONFIG))
    assert [diff.tap.partition(",")[0] for diff in failures] == ["gradient"] * 2


def test_evaluation_with_dropout_is_seen(monkeypatch, compiled_anew):
    def eval_step(state, images):
        images = train.normalise(images, state.recipe.means, state.recipe.stds)
        return state.apply_fn({"params": state.eval_params}, images, train=True, rngs={"dropout": state.rng})

    monkeypatch.setattr(train, "eval_step", eval_step)
    assert first_failure("evaluation") == "accuracy, every label right"


def test_an_average_of_constant_length_is_seen(monkeypatch, compiled_anew):
    def averaged(state):
        decay = state.recipe.ema_decay
        return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, state.params)

    monkeypatch.setattr(train, "_averaged", averaged)
    assert first_failure("average") == "average after step 1"


def test_an_epoch_without_a_batch_is_told_in_words():
    class Idle(FlaxSide):
        def epoch_rows(self, seed, epoch, examples, batch_size):
            return []

    (diff,) = compare_epochs(Idle(CONFIG), Twin(CONFIG, "cpu"))
    assert diff.problem == "an epoch without a batch"


def test_draws_that_change_from_run_to_run_are_seen_and_have_no_known_cause():
    class Unsteady(FlaxSide):
        runs = 0

        def noisy_losses(self, weights, images, labels, seed, recipe):
            self.runs += 1
            return super().noisy_losses(weights, images, labels, seed + 10 * self.runs, recipe)

    unsteady = dataclasses.replace(ground(), target=functools.cache(Unsteady))
    assert [diff.tap for diff in causes_first(BY_NAME["noise"].climb(unsteady))] == ["steps that differ when run again"]
    assert not diagnose(unsteady, BY_NAME["noise"]).causes


def test_numbers_that_are_no_examples_are_counted():
    class Beyond(FlaxSide):
        def epoch_rows(self, seed, epoch, examples, batch_size):
            return super().epoch_rows(seed, epoch, examples + 1, batch_size)

    failures = causes_first(compare_epochs(Beyond(CONFIG), Twin(CONFIG, "cpu")))
    assert EXAMPLES in np.concatenate(Beyond(CONFIG).epoch_rows(0, 0, EXAMPLES, 1))
    assert "numbers that are no example's" in {diff.tap for diff in failures}


def test_about_half_of_the_trajectorys_steps_are_clipped():
    g = ground()
    wide = {name: leaf.astype(np.float64) for name, leaf in g.weights.items()}
    batches, labels = training_batches(g.images, CONFIG, STEPS)
    plan = half_clipped(PLAN, g.reference, wide, batches, labels)

    _, course = g.reference.train(wide, batches, labels, plan)
    clipped = 0
    for step, weights in enumerate([wide, *course[:-1]]):
        one = slice(step, step + 1)
        _, (after,) = g.reference.train(weights, batches[one], labels[one], PLAIN.replace(learning_rate=1.0))
        norm = np.sqrt(sum(((weights[leaf] - after[leaf]) ** 2).sum() for leaf in weights))
        clipped += norm > plan.clip_norm

    assert STEPS / 5 < clipped < 4 * STEPS / 5


def test_partners_by_permutation_are_mixed_as_well_as_neighbours(monkeypatch):
    """An image may then be its own partner, and has all of the target."""

    def mixup(images, targets, share):
        partner = torch.randperm(len(images)).numpy()
        return tuple((share * x + (1 - share) * x[partner]).astype(x.dtype) for x in (images, targets))

    monkeypatch.setattr(loop, "mixup", mixup)
    diffs = _mixup(Twin(CONFIG, "cpu"), FlaxSide(CONFIG), CONFIG)

    assert [diff.tap for diff in diffs if not diff.passes] == []


def test_exponentials_that_overflow_are_seen():
    class Plain(Twin):
        def loss(self, logits, labels, mask, recipe):
            z = torch.from_numpy(logits).requires_grad_()
            logs = z - z.exp().sum(dim=-1, keepdim=True).log()
            share = recipe.label_smoothing / z.shape[-1]
            targets = torch.full_like(z, share).scatter_(
                1, torch.tensor(labels)[:, None], 1 - recipe.label_smoothing + share
            )
            loss = (-(targets * logs).sum(dim=-1) * torch.tensor(mask)).sum() / mask.sum()
            loss.backward()
            return loss.detach().numpy(), z.grad.numpy()

    diffs = compare_loss(Plain(CONFIG, "cpu"), Twin(CONFIG, "cpu"), CONFIG)

    failing = {diff.tap.split(", ")[2] for diff in diffs if not diff.passes}
    assert failing == {"logits far apart"}
