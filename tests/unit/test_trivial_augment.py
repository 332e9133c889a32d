"""TrivialAugment against torchvision's: every operation at every magnitude, and how both are drawn."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from einops import rearrange, repeat
from scipy import stats
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms.autoaugment import _apply_op

from vit_flax import trivial_augment as module
from vit_flax.trivial_augment import OPERATIONS, SPACE, apply, draw, trivial_augment

THEIR_SPACE = TrivialAugmentWide(num_magnitude_bins=31)._augmentation_space(31)
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
SHAPES = ((32, 32, 3), (64, 48, 1))
TIE = 2**-15  # of a pixel, to an edge between two: float32 cannot tell
ROUNDING = 1  # levels of 255: one uint8 rounding
ROUNDED = 0.05  # share of the pixels that may differ by it; a blend rounded up, not down, differs in half of them
FALSE_ALARM = 1e-6  # chance that a right sampler fails a test, over its seeds
DRAWS = 100_000


@functools.cache
def images_of(shape):
    """Two crops of each photograph, and two images of noise."""
    height, width, channels = shape
    random = np.random.default_rng(0)
    corners = random.integers(0, 300, (2, 2))
    crops = [p[y : y + height, x : x + width] for p in load_sample_images().images for y, x in corners]
    return np.concatenate([crops, random.integers(0, 256, (2, height, width, 3), np.uint8)])[..., :channels]


def their_magnitudes(name):
    magnitudes, signed = THEIR_SPACE[name]
    magnitudes = np.atleast_1d(magnitudes.numpy()).astype(np.float32)
    both_signs = np.concatenate([magnitudes, -magnitudes]) if signed else magnitudes
    return np.resize(both_signs, 62)  # as many for every operation, so that `apply` is compiled once a shape


def theirs(name, shape):
    images = torch.from_numpy(rearrange(images_of(shape), "b h w c -> b c h w").copy())
    options = dict(interpolation=InterpolationMode.NEAREST, fill=None)
    changed = [_apply_op(images, name, float(magnitude), **options) for magnitude in their_magnitudes(name)]
    return rearrange(torch.stack(changed).numpy(), "m b c h w -> m b h w c")


def ours(name, shape, apply):
    images, magnitudes = images_of(shape), their_magnitudes(name)
    batch = repeat(images, "b h w c -> (m b) h w c", m=len(magnitudes))
    changed = apply(batch, np.full(len(batch), OPERATIONS.index(name), np.int32), magnitudes.repeat(len(images)))
    return np.asarray(changed).reshape(len(magnitudes), *images.shape)


def on_a_tie(name, shape):
    """Which pixels come from the edge between two, for every magnitude, computed in float64."""
    height, width, _ = shape
    y, x = np.mgrid[:height, :width] + 0.5
    m = their_magnitudes(name).astype(np.float64)[:, None, None]
    turn = (x - width / 2 + 1j * (y - height / 2)) * np.exp(1j * np.radians(m)) + width / 2 + 1j * height / 2
    sources = {"ShearX": (x + m * y,), "ShearY": (y + m * x,), "Rotate": (turn.real, turn.imag)}
    tied = [abs(source % 1) for source in sources.get(name, ())]
    return sum((np.minimum(t, 1 - t) < TIE for t in tied), np.zeros((len(m), height, width), bool))


def agrees(name, shape, apply):
    """Geometric: the same pixels, but for ties. Others: the same values, but for a few roundings."""
    difference = abs(ours(name, shape, apply).astype(int) - theirs(name, shape))
    if name in GEOMETRIC:
        return not difference[~np.broadcast_to(on_a_tie(name, shape)[:, None, ..., None], difference.shape)].any()
    return difference.max() <= ROUNDING and (difference > 0).mean() <= ROUNDED


compiled = jax.jit(apply)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_does_what_torchvision_does(name, shape):
    assert agrees(name, shape, compiled)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", GEOMETRIC)
def test_few_pixels_come_from_a_tie(name, shape):
    assert on_a_tie(name, shape).mean() < 0.01


def away_from(other, image, magnitude):
    return jnp.clip((1 + magnitude) * image - magnitude * other, 0, 255)


WRONG_SOURCE = {
    "ShearX": lambda x, y, magnitude: (x + magnitude * (y - 16), y),  # about the centre
    "ShearY": lambda x, y, magnitude: (x, y + jnp.tan(magnitude) * x),  # an angle, not a slope
    "TranslateX": lambda x, y, magnitude: (x - jnp.round(magnitude), y),
    "TranslateY": lambda x, y, magnitude: (x, y + jnp.trunc(magnitude)),
    "Rotate": lambda x, y, magnitude: module._rotated(x, y, -magnitude),
}
WRONG_COLOUR = {
    "Identity": lambda image, _: image[:, ::-1],
    "Brightness": lambda image, m: jnp.round(away_from(0, image, m)).astype(int),
    "Color": lambda image, m: away_from(image.mean(axis=-1, keepdims=True), image, m).astype(int),
    "Contrast": lambda image, m: away_from(image.mean(), image, m).astype(int),
    "Sharpness": lambda image, m: away_from(0.9 * module._blurred(image) + 0.1 * image, image, m).astype(int),
    "Posterize": lambda image, m: module._posterize(image, m - 1),
    "Solarize": lambda image, m: jnp.where(image > m, 255 - image, image),
    "AutoContrast": lambda image, _: (image - image.min()) * 255 // (image.max() - image.min()),  # not by channel
    "Equalize": lambda image, _: module._equalize_channel(image),  # not by channel
}


@pytest.fixture(scope="module")
def wrong():
    """`apply` with a fault in every operation, compiled before they are taken out again."""
    count, types = 62 * len(images_of(SHAPES[0])), (jnp.uint8, jnp.int32, jnp.float32)
    shapes = ((count, *SHAPES[0]), (count,), (count,))
    with pytest.MonkeyPatch.context() as patch:
        for table, faults in ((module._SOURCE, WRONG_SOURCE), (module._RECOLOUR, WRONG_COLOUR)):
            for name, fault in faults.items():
                patch.setitem(table, name, fault)
        # Another function than `apply`, whose trace without faults is kept.
        return jax.jit(lambda *batch: apply(*batch)).lower(*map(jax.ShapeDtypeStruct, shapes, types)).compile()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_fault_in_an_operation_would_be_found(name, wrong):
    assert not agrees(name, SHAPES[0], wrong)


def has_the_space(space):
    """The same operations in the same order, signs and magnitudes, but for two float32 roundings.

    Those of torch.linspace make 16 pixels 15.999999, so torchvision moves an image by 15 where we do by 16.
    """

    def same(our, their):
        our = our.astype(np.float32)
        return our.shape == their.shape and (abs(our - their) <= 2 * np.spacing(abs(our))).all()

    return list(space) == list(SPACE) and all(
        signed == SPACE[name][1] and same(SPACE[name][0], np.resize(magnitudes.numpy(), 31).astype(np.float32))
        for name, (magnitudes, signed) in space.items()
    )


def test_the_space_is_the_wide_one():
    assert has_the_space(THEIR_SPACE)


@pytest.mark.parametrize("name", ("ShearX", "TranslateX", "Rotate", "Brightness", "Posterize"))
def test_the_space_of_rand_augment_would_be_found(name):
    other = RandAugment()._augmentation_space(31, (32, 32))
    assert not has_the_space(THEIR_SPACE | {name: other[name]})


def is_uniform(operations, magnitudes):
    """Chi-square of all operations, magnitudes and signs together."""
    counts = Counter(zip(operations.tolist(), magnitudes.tolist(), strict=True))
    expected = Counter()
    for place, (steps, signed) in enumerate(SPACE.values()):
        for magnitude in np.concatenate([steps, -steps if signed else steps]).astype(np.float32).tolist():
            expected[place, magnitude] += DRAWS / len(SPACE) / 62
    if not counts.keys() <= expected.keys():
        return False
    return stats.chisquare([counts[cell] for cell in expected], list(expected.values())).pvalue > FALSE_ALARM


def test_operations_magnitudes_and_signs_are_uniform():
    assert is_uniform(*draw(jax.random.key(0), DRAWS))


WRONG_DRAWS = {
    "operation never drawn": lambda o, m: (np.where(o == 0, 1, o), m),
    "no signs": lambda o, m: (o, abs(m)),
    "strongest never drawn": lambda o, m: (o, np.where((o == OPERATIONS.index("Rotate")) & (m == 135), 130.5, m)),
    "one strength, as RandAugment": lambda o, m: (o, np.asarray([s[9] for s, _ in SPACE.values()], np.float32)[o]),
}


@pytest.mark.parametrize("fault", WRONG_DRAWS)
def test_a_fault_in_the_draw_would_be_found(fault):
    operations, magnitudes = map(np.asarray, draw(jax.random.key(0), DRAWS))
    assert not is_uniform(*WRONG_DRAWS[fault](operations, magnitudes))


def test_every_image_gets_what_was_drawn_for_it():
    images, rng = repeat(images_of(SHAPES[0]), "b h w c -> (m b) h w c", m=62), jax.random.key(0)
    augmented = jax.jit(trivial_augment)(rng, images)
    assert augmented.dtype == jnp.uint8
    np.testing.assert_array_equal(augmented, compiled(images, *draw(rng, len(images))))


@pytest.mark.parametrize(
    "images", (np.zeros((2, 4, 4, 3), np.float32), np.zeros((2, 4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8))
)
def test_other_images_are_refused(images):
    with pytest.raises(ValueError, match=r"must be uint8 of \(B, H, W, 1 or 3\)"):
        apply(images, np.zeros(2, np.int32), np.zeros(2, np.float32))
