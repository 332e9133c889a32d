"""The loss is the formula in float64, and padding counts for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformance.tolerances import FLOAT64, loss_rounding
from vit_flax import loss

CLASSES = 5
LABELS = np.array([3, 0, 4, 4, 1, 2, 0, 3])  # eight: a share of them is exact in binary
RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((len(LABELS), CLASSES)) * 10
MIXED = RNG.dirichlet(np.ones(CLASSES), len(LABELS))


def one_hot(labels, smoothing=0.0):
    return np.eye(CLASSES)[labels] * (1 - smoothing) + smoothing / CLASSES


def formula(logits, targets):
    """-Σ p log softmax(logits), averaged over the images."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(targets * log_softmax).sum(axis=1).mean()


def check_cross_entropy(cross_entropy, targets):
    with jax.enable_x64(True):
        value = float(cross_entropy(jnp.asarray(LOGITS), jnp.asarray(targets)))
    expected = formula(LOGITS, targets)
    assert abs(value - expected) <= FLOAT64 * abs(expected)


def check_mask(mean):
    """`mean(logits, targets, mask)` over a padded batch is that over the same images alone."""
    padding = MIXED[:4]  # all of it right, and very sure
    logits, targets = np.concatenate([LOGITS, 100 * padding]), np.concatenate([MIXED, padding])
    mask = (np.arange(len(logits)) < len(LOGITS)).astype(float)
    with jax.enable_x64(True):
        alone = float(mean(jnp.asarray(LOGITS), jnp.asarray(MIXED), None))
        with_padding = float(mean(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(mask)))
    assert abs(with_padding - alone) <= FLOAT64 * abs(alone)


TARGETS = {"one-hot": one_hot(LABELS), "smoothed": one_hot(LABELS, 0.1), "mixed": MIXED}
MEANS = {"cross_entropy": loss.cross_entropy, "accuracy": loss.accuracy}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_cross_entropy_is_the_formula(targets):
    check_cross_entropy(loss.cross_entropy, targets)


@pytest.mark.parametrize(
    "wrong",
    (
        lambda logits, targets: loss.cross_entropy(logits, targets) / jnp.log(2),  # bits
        lambda logits, targets: loss.cross_entropy(logits, targets) * len(logits),  # the sum
        lambda logits, targets: loss.cross_entropy(logits, loss.targets(targets.argmax(axis=-1), CLASSES, 0.001)),
        lambda logits, targets: loss.cross_entropy(logits.astype(jnp.float32), targets),
    ),
    ids=("bits", "sum", "other targets", "float32"),
)
def test_another_cross_entropy_would_be_found(wrong):
    with pytest.raises(AssertionError):
        check_cross_entropy(wrong, TARGETS["one-hot"])


@pytest.mark.parametrize("smoothing", (0.0, 0.1, 1.0))
def test_smoothing_spreads_over_all_classes(smoothing):
    with jax.enable_x64(True):
        targets = np.asarray(loss.targets(jnp.asarray(LABELS), CLASSES, smoothing))
    assert np.abs(targets - one_hot(LABELS, smoothing)).max() <= FLOAT64


def test_targets_without_smoothing_are_one_hot_to_the_bit():
    np.testing.assert_array_equal(loss.targets(jnp.asarray(LABELS), CLASSES), one_hot(LABELS))


@pytest.mark.parametrize("mean", MEANS.values(), ids=MEANS)
def test_padding_counts_for_nothing(mean):
    check_mask(mean)


@pytest.mark.parametrize("mean", MEANS.values(), ids=MEANS)
@pytest.mark.parametrize(
    "ignore",
    (
        lambda mean: lambda logits, targets, mask: mean(logits, targets),
        lambda mean: lambda logits, targets, mask: mean(logits, targets, mask) * np.mean(1 if mask is None else mask),
    ),
    ids=("counted", "counted below the line"),
)
def test_padding_that_counts_would_be_found(mean, ignore):
    with pytest.raises(AssertionError):
        check_mask(ignore(mean))


@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float32))
def test_logits_are_widened_before_anything_is_lost(dtype):
    narrow, targets = jnp.asarray(LOGITS, dtype), jnp.asarray(MIXED, jnp.float32)
    value = loss.cross_entropy(narrow, targets)
    assert value.dtype == jnp.float32
    assert value == loss.cross_entropy(narrow.astype(jnp.float32), targets)


@pytest.mark.parametrize("classes", (10, 1000))
@pytest.mark.parametrize("smoothing", (0.0, 0.1))
def test_a_loss_in_float32_is_off_by_its_own_roundings_and_one_of_narrow_sums_by_more(classes, smoothing):
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((100, 2, classes)).astype(np.float32)
    targets = loss.targets(jnp.asarray(rng.integers(0, classes, (100, 2))), classes, smoothing)
    truth = np.array([formula(*pair) for pair in zip(logits.astype(float), np.asarray(targets, float), strict=True)])

    def strays(logits):
        return np.abs(jax.vmap(loss.cross_entropy)(logits, targets) / truth - 1)

    limits = loss_rounding(truth, classes, smoothing)
    assert (strays(logits) <= limits).all()
    assert (strays(logits + np.float32(2**13)) > limits).mean() > 0.5  # whose last bits the logits have lost


def test_a_loss_in_bfloat16_would_differ():
    narrow, targets = jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(MIXED, jnp.bfloat16)
    log_softmax = jax.nn.log_softmax(narrow)
    assert -jnp.mean(jnp.sum(targets * log_softmax, axis=1)) != loss.cross_entropy(narrow, targets.astype(jnp.float32))


@pytest.mark.parametrize("right", range(len(LABELS) + 1))
def test_accuracy_is_the_share_of_images_that_are_right(right):
    shown = np.where(np.arange(len(LABELS)) < right, LABELS, (LABELS + 1) % CLASSES)
    assert loss.accuracy(one_hot(shown), one_hot(LABELS)) == right / len(LABELS)


def test_a_mixed_image_counts_as_its_likeliest_class():
    targets = np.array([[0.4, 0.6], [0.6, 0.4]])
    assert loss.accuracy(np.array([[1.0, 2.0], [1.0, 2.0]]), targets) == 0.5
