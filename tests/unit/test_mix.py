"""mixup and CutMix against torchvision's, what they leave as it is, and how they are drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from einops import rearrange
from scipy import stats
from torchvision.transforms import v2

from vit_flax.mix import cutmix, draw_box, mix, mixup

SHARES = (0.0, 0.25, 0.875, 1.0)  # in eighths, of pixels that are whole numbers: every sum is exact
BOXES = ((0, 8, 0, 16), (0, 1, 0, 1), (5, 8, 14, 16), (2, 7, 0, 4), (3, 3, 5, 9))  # of 8 × 16 pixels; the last is empty
FALSE_ALARM = 1e-6  # chance that a right sampler fails a test, over its seeds
DRAWS = 4000
MIXUP, CUTMIX = 4.0, 1.0  # alphas
RNGS = jax.random.split(jax.random.key(0), DRAWS)

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def batch(dtype=np.float32):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 16, 3)).astype(dtype)
    return jnp.asarray(images), jnp.eye(4, 5, dtype=dtype)


def theirs(transform, images, targets, **drawn):
    images = torch.from_numpy(rearrange(np.asarray(images), "b h w c -> b c h w").copy())
    targets = torch.from_numpy(np.array(targets))
    params = dict(labels=targets, batch_size=len(images), **drawn)
    mixed = [transform.transform(x, params).numpy() for x in (images, targets)]
    return rearrange(mixed[0], "b c h w -> b h w c"), mixed[1]


def equal(ours, theirs):
    return all(np.array_equal(our, their) for our, their in zip(ours, theirs, strict=True))


def mixes_as_torchvision(mixup, share):
    return equal(mixup(*batch(), jnp.float32(share)), theirs(v2.MixUp(), *batch(), lam=share))


def cuts_as_torchvision(cutmix, box):
    top, bottom, left, right = box
    share = 1 - (bottom - top) * (right - left) / (8 * 16)
    drawn = dict(box=(left, top, right, bottom), lam_adjusted=share)
    return equal(cutmix(*batch(), tuple(map(jnp.int32, box))), theirs(v2.CutMix(), *batch(), **drawn))


@pytest.mark.parametrize("share", SHARES)
def test_mixup_does_what_torchvision_does(share):
    assert mixes_as_torchvision(mixup, share)


@pytest.mark.parametrize("box", BOXES)
def test_cutmix_does_what_torchvision_does(box):
    assert cuts_as_torchvision(cutmix, box)


def with_the_next(mix):
    """The same mix with the next image, not the previous."""

    def mixed(images, targets, how):
        images, targets = mix(images[::-1], targets[::-1], how)
        return images[::-1], targets[::-1]

    return mixed


WRONG_MIXUPS = {
    "shares swapped": lambda images, targets, share: mixup(images, targets, 1 - share),
    "targets as they were": lambda images, targets, share: (mixup(images, targets, share)[0], targets),
    "another partner": with_the_next(mixup),
}
WRONG_CUTMIXES = {
    "rows for columns": lambda images, targets, box: cutmix(images, targets, (*box[2:], *box[:2])),
    "ends included": lambda images, targets, box: cutmix(images, targets, (box[0], box[1] + 1, box[2], box[3])),
    "targets as they were": lambda images, targets, box: (cutmix(images, targets, box)[0], targets),
    "another partner": with_the_next(cutmix),
}


@pytest.mark.parametrize("fault", WRONG_MIXUPS)
def test_a_fault_in_mixup_would_be_found(fault):
    assert not mixes_as_torchvision(WRONG_MIXUPS[fault], 0.25)


@pytest.mark.parametrize("fault", WRONG_CUTMIXES)
def test_a_fault_in_cutmix_would_be_found(fault):
    assert not cuts_as_torchvision(WRONG_CUTMIXES[fault], (2, 7, 0, 4))


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
@pytest.mark.parametrize("alphas", ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)), ids=str)
def test_shapes_and_dtypes_stay(alphas, dtype):
    mixed = jax.eval_shape(lambda *batch: mix(jax.random.key(0), *batch, *alphas), *batch(dtype))
    assert [(x.shape, x.dtype) for x in mixed] == [((4, 8, 16, 3), dtype), ((4, 5), dtype)]


def test_without_an_alpha_nothing_is_mixed():
    images, targets = batch()
    mixed = mix(jax.random.key(0), images, targets, mixup=0.0, cutmix=0.0)
    assert mixed[0] is images
    assert mixed[1] is targets


@pytest.mark.parametrize("alphas", ((-0.1, 1.0), (1.0, -0.1)))
def test_a_negative_alpha_is_refused(alphas):
    with pytest.raises(ValueError, match="neither may be negative"):
        mix(jax.random.key(0), *batch(), *alphas)


@functools.cache
def drawn():
    """Of many pairs mixed in both ways, a black and a white image: the black one, and the share of black in its target.

    Images are many pixels of the same colour, so those that were cut show it.
    """
    images = jnp.broadcast_to(jnp.arange(2.0)[:, None, None, None], (2, 16, 32, 1))

    @jax.jit
    @jax.vmap
    def run(rng):
        mixed, targets = mix(rng, images, jnp.eye(2), mixup=MIXUP, cutmix=CUTMIX)
        return mixed[0], targets

    images, targets = map(np.asarray, run(RNGS))
    return images, targets, ((images == 0) | (images == 1)).all(axis=(1, 2, 3))


def as_often(cut):
    return stats.binomtest(int(cut.sum()), len(cut), 0.5).pvalue > FALSE_ALARM


def test_with_both_alphas_each_is_drawn_half_of_the_time():
    _, targets, cut = drawn()
    assert as_often(cut)
    assert not as_often(cut | (targets[:, 0, 0] < 0.4))


def test_shares_of_mixup_are_beta_distributed():
    _, targets, cut = drawn()

    def are_beta(alpha):
        return stats.kstest(targets[~cut, 0, 0], stats.beta(alpha, alpha).cdf).pvalue > FALSE_ALARM

    assert are_beta(MIXUP)
    assert not are_beta(CUTMIX)


def test_areas_of_cutmix_are_distributed_as_torchvisions():
    images, _, cut = drawn()
    white = images[cut].mean(axis=(1, 2, 3))

    def are_areas_at(alpha):
        top, bottom, left, right = their_boxes(alpha).T
        areas = (bottom - top) * (right - left) / images[0].size
        return stats.ks_2samp(white, areas).pvalue > FALSE_ALARM

    assert are_areas_at(CUTMIX)
    assert not are_areas_at(MIXUP)


def test_targets_are_the_shares_of_the_pixels_and_sum_to_one():
    images, targets, cut = drawn()
    black = 1 - images.mean(axis=(1, 2, 3))
    np.testing.assert_array_equal(targets[cut, 0, 0], black[cut])
    assert len(np.unique(black[cut])) > 100
    assert (targets[cut, 0, 0] != black[cut][::-1]).any()
    assert abs(targets.sum(axis=2) - 1).max() <= np.finfo(np.float32).eps


def boxes_of(alpha):
    shares = np.random.default_rng(0).beta(alpha, alpha, DRAWS).astype(np.float32)
    return np.stack(jax.vmap(draw_box, in_axes=(0, 0, None, None))(RNGS, shares, 16, 32), axis=1)


@functools.cache
def their_boxes(alpha):
    transform, images = v2.CutMix(alpha=alpha), [torch.zeros(2, 3, 16, 32)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        boxes = [transform.make_params(images)["box"] for _ in range(DRAWS)]
    return np.array([(top, bottom, left, right) for left, top, right, bottom in boxes])


def same_boxes(ours, theirs):
    """Two-sample Kolmogorov-Smirnov for each side and for the area; a fifth of the false alarms to each."""

    def measures(boxes):
        top, bottom, left, right = boxes.T
        return top, bottom, left, right, (bottom - top) * (right - left)

    pairs = zip(measures(ours), measures(theirs), strict=True)
    return all(stats.ks_2samp(our, their).pvalue > FALSE_ALARM / 5 for our, their in pairs)


@pytest.mark.parametrize("alpha", (0.2, 1.0))
def test_boxes_of_cutmix_are_drawn_as_torchvisions(alpha):
    assert same_boxes(boxes_of(alpha), their_boxes(alpha))


WRONG_BOXES = {
    "rows for columns": lambda boxes: boxes[:, [2, 3, 0, 1]],
    "in a corner": lambda boxes: boxes - boxes[:, [0, 0, 2, 2]],
    "of a smaller area": lambda boxes: boxes - np.array([0, 1, 0, 1]),
}


@pytest.mark.parametrize("fault", WRONG_BOXES)
def test_a_fault_in_the_boxes_would_be_found(fault):
    assert not same_boxes(WRONG_BOXES[fault](boxes_of(1.0)), their_boxes(1.0))
