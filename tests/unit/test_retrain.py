"""A training step rebuilt from a side's gradients is the side's own, until something stands in between."""

import numpy as np
import pytest

from conformance.mutation import sound
from conformance.retrain import one_gradient, retrained
from conformance.tolerances import FLOAT64
from conformance.torch_side import Twin
from conformance.training import PLAIN, PLAN, training_batches
from vit_flax.config import preset

CONFIG = preset("digits").replace(num_layers=1)
GROUND = sound(CONFIG)
WIDE = {name: leaf.astype(np.float64) for name, leaf in GROUND.weights.items()}
IMAGES, LABELS = training_batches(GROUND.images, CONFIG, 6)
SHORT = PLAN.replace(epochs=6, warmup_epochs=2.0)


def largest(a, b):
    return max(float(np.abs(a[name] - b[name]).max()) for name in b)


PLANS = {f"clipped at {norm}": SHORT.replace(clip_norm=norm) for norm in (None, 1.0, 6.0)}
PLANS |= {"plain SGD": PLAIN, "momentum": PLAIN.replace(momentum=0.9)}


@pytest.mark.parametrize("name", PLANS)
def test_nothing_changed_is_the_sides_own_training(name):
    train, plan = Twin(CONFIG, "cpu").train, PLANS[name]

    losses, after = retrained(lambda gradients: gradients, train, WIDE, IMAGES, LABELS, plan)

    own_losses, own = train(WIDE, IMAGES, LABELS, plan)
    assert np.abs(losses - own_losses).max() <= FLOAT64 * own_losses.max()
    assert max(largest(a, b) for a, b in zip(after, own, strict=True)) <= FLOAT64


def test_something_changed_is_another_training():
    train = Twin(CONFIG, "cpu").train
    doubled = lambda gradients: {leaf: 2 * g for leaf, g in gradients.items()}  # noqa: E731
    _, after = retrained(doubled, train, WIDE, IMAGES, LABELS, SHORT.replace(clip_norm=6.0))
    _, own = train(WIDE, IMAGES, LABELS, SHORT.replace(clip_norm=6.0))
    assert largest(after[-1], own[-1]) > 1000 * FLOAT64


def test_one_step_of_plain_sgd_gives_the_gradient():
    side = Twin(CONFIG, "cpu")
    loss, gradient = one_gradient(side.train, WIDE, IMAGES[0], LABELS[0], SHORT)
    logits = side.taps(WIDE, IMAGES[0])["logits"]
    value, upstream = side.loss(logits, LABELS[0], np.ones(len(LABELS[0])), SHORT)
    own = side.gradients(WIDE, IMAGES[0], {"logits": upstream}).parameters
    assert abs(loss - value) <= FLOAT64
    assert largest(gradient, own) <= FLOAT64 * max(np.abs(g).max() for g in own.values())


def test_what_is_kept_is_what_the_next_step_begins_with():
    train, seen = Twin(CONFIG, "cpu").train, []

    def kept(before, after):
        seen.append((before, after))
        return after | {"head/bias": before["head/bias"]}

    _, course = retrained(lambda gradients: gradients, train, WIDE, IMAGES, LABELS, SHORT, kept=kept)

    assert all(before is now for (before, _), now in zip(seen, [WIDE, *course], strict=False))
    assert all((now["head/bias"] == WIDE["head/bias"]).all() for now in course)
    assert largest(course[-1], seen[-1][1]) > 1000 * FLOAT64
