"""Random erasing: where, how often and with what, against torchvision's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomErasing

from vit_flax import erase as module
from vit_flax.erase import draw_rectangles, erase

SIZE = (16, 48)
FALSE_ALARM = 1e-6  # chance that a right sampler fails a test, over its seeds
DRAWS = 4000
PLAIN = 100.0  # far from any noise

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def plain_images(count=1000, dtype=jnp.float32):
    return jnp.full((count, *SIZE, 3), PLAIN, dtype)


def erased(images):
    return np.asarray(images) != PLAIN


compiled = jax.jit(erase, static_argnames="probability")


def starts(side):
    """How many runs of pixels each side has."""
    return (np.diff(side.reshape(len(side), -1).astype(int), prepend=0) == 1).sum(axis=1)


def are_rectangles(changed):
    """Whether the pixels that changed fill a rectangle of each image, in all channels."""
    pixels = changed.any(axis=-1)
    rows, columns = pixels.any(axis=2, keepdims=True), pixels.any(axis=1, keepdims=True)
    whole = (pixels == rows & columns) & (changed.all(axis=-1) == pixels)
    return whole.all() and starts(rows).max() == starts(columns).max() == 1


def test_one_rectangle_changes_and_the_rest_does_not():
    changed = erased(compiled(jax.random.key(0), plain_images(), 1.0))
    assert are_rectangles(changed)
    assert not are_rectangles(changed | changed[:, :, ::-1])
    assert not are_rectangles(changed & (np.arange(3) > 0))


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
def test_shape_and_dtype_stay(dtype):
    noisy = jax.eval_shape(lambda images: erase(jax.random.key(0), images, 1.0), plain_images(2, dtype))
    assert (noisy.shape, noisy.dtype) == ((2, *SIZE, 3), dtype)


def rate_is(probability, changed):
    return stats.binomtest(int(changed.sum()), len(changed), probability).pvalue > FALSE_ALARM


@pytest.mark.parametrize("probability", (0.25, 1.0))
def test_images_are_erased_as_often_as_asked(probability):
    changed = erased(compiled(jax.random.key(0), plain_images(), probability)).any(axis=(1, 2, 3))
    assert rate_is(probability, changed)
    assert not rate_is(abs(probability - 0.1), changed)


def test_with_probability_0_nothing_is_drawn():
    images = plain_images(2)
    assert erase(jax.random.key(0), images, 0.0) is images


@pytest.mark.parametrize("probability", (-0.1, 1.1, float("nan")))
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        erase(jax.random.key(0), plain_images(2), probability)


def is_normal(noise):
    return stats.kstest(noise, "norm").pvalue > FALSE_ALARM


def test_noise_is_standard_normal_and_of_every_pixel_its_own():
    images = np.asarray(compiled(jax.random.key(0), plain_images(), 1.0))
    noise = images[erased(images)]
    assert len(np.unique(noise)) > 0.9 * len(noise)
    assert is_normal(noise[::20])
    assert not is_normal(noise[::20] * 1.1)
    assert not is_normal(noise[::20] + 0.1)


@functools.cache
def theirs():
    image = torch.zeros(3, *SIZE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = [RandomErasing.get_params(image, (0.02, 1 / 3), (0.3, 3.3), [0.0])[:4] for _ in range(DRAWS)]
    top, left, tall, wide = np.array(draws).T
    nothing = (tall == SIZE[0]) & (wide == SIZE[1])  # torchvision's way to say that no attempt fitted
    return top, left, np.where(nothing, 0, tall), np.where(nothing, 0, wide)


def ours():
    return tuple(map(np.asarray, draw_rectangles(jax.random.key(1), DRAWS, *SIZE)))


def drawn_alike(ours, theirs):
    """Two-sample Kolmogorov-Smirnov of place, size, area and ratio; a sixth of the false alarms to each."""

    def measures(top, left, tall, wide):
        return top, left, tall, wide, tall * wide, tall / np.maximum(wide, 1)

    pairs = zip(measures(*ours), measures(*theirs), strict=True)
    return all(stats.ks_2samp(our, their).pvalue > FALSE_ALARM / 6 for our, their in pairs)


def test_rectangles_are_drawn_as_torchvisions():
    assert drawn_alike(ours(), theirs())


@pytest.mark.parametrize(
    "name, value", (("AREA", (0.02, 0.4)), ("RATIO", (0.5, 2.0)), ("RATIO", (0.2, 3.3)), ("ATTEMPTS", 1))
)
def test_a_fault_in_the_rectangles_would_be_found(monkeypatch, name, value):
    monkeypatch.setattr(module, name, value)
    assert not drawn_alike(ours(), theirs())


def test_width_for_height_would_be_found():
    top, left, tall, wide = ours()
    assert not drawn_alike((left, top, wide, tall), theirs())
    assert not drawn_alike((top * 0, left, tall, wide), theirs())


def test_where_no_attempt_fits_the_rectangle_is_empty(monkeypatch):
    assert np.all(ours()[2:])
    monkeypatch.setattr(module, "AREA", (1.5, 1.6))
    assert not np.any(ours()[2:])
