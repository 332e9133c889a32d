"""The statistical gates, and the smallest deviation that each sees: a table for docs/proofs.md.

python -m conformance.gates     # print it
"""

import math

from scipy import stats

from conformance import augmentation, initialisation, loop, pixels, power, randomness, tolerances
from conformance.torch_side import Twin
from reference.data import ERASED_AREA
from vit_flax.config import preset
from vit_flax.weights import canonical_shapes

CONFIG, IMAGES = preset("digits"), 16  # what the figures are for, where they depend on it
HEADER = ("rung", "statistic", "draws a side", f"smallest deviation seen with probability {tolerances.SEEN:g}")

Row = tuple[str, str, int, str]


def table() -> str:
    """Markdown, derived from the gates' own numbers."""
    rows = [
        HEADER,
        ("---",) * len(HEADER),
        *_boxes(),
        *_fresh_weights(),
        *_dropout(),
        *_epochs(),
        *_augmentation(),
        *_erasing(),
        *_trivial_augment(),
    ]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _boxes() -> list[Row]:
    n = pixels.DRAWS
    seen = power.distance_seen(n, n, pixels.LEVEL)
    wide = power.distance_seen(pixels.WIDE_DRAWS, pixels.WIDE_DRAWS, pixels.LEVEL)
    return [
        ("pixels", "boxes: place, area, ratio", n, f"distributions {seen:.3f} apart"),
        ("pixels", "boxes of any area", pixels.WIDE_DRAWS, f"distributions {wide:.3f} apart"),
    ]


def _fresh_weights() -> list[Row]:
    shapes = canonical_shapes(CONFIG)
    level = tolerances.FALSE_ALARMS / (initialisation.TESTS * len(shapes))
    kurtosis = 3 + float(stats.truncnorm(-2, 2).stats("k"))
    rows: list[Row] = []
    for leaf in ("head/kernel", "encoder/00/mlp/fc1/kernel"):
        n = initialisation.seeds_pooled(sum(map(math.prod, shapes.values()))) * math.prod(shapes[leaf])
        spread, beyond = power.spread_seen(kurtosis, n, n, level), power.beyond_seen(n, n, level)
        rows += [
            ("initialisation", f"{leaf}, distribution", n, f"{power.distance_seen(n, n, level):.3f} apart"),
            ("initialisation", f"{leaf}, spread", n, f"a factor of {math.exp(spread):.3f}"),
            ("initialisation", f"{leaf}, entries beyond", n, f"{beyond:.4f} of all entries"),
        ]
        exceptions = f"{power.exception_seen(n, level):.4f} of all entries"
        rows.append(("initialisation", f"{leaf}, entries of one size", n, exceptions))
    return rows


def _dropout() -> list[Row]:
    level = tolerances.FALSE_ALARMS / (randomness.STATISTICS * (1 + 2 * CONFIG.num_layers))
    n = randomness.SEEDS * IMAGES * (1 + CONFIG.num_patches) * CONFIG.hidden_dim
    keep = 1 - randomness.RATE
    alike = keep**2 + (1 - keep) ** 2
    share, fate = power.share_seen(keep, n, n, level), power.share_seen(alike, n // 2, n // 2, level)
    return [
        ("randomness", "embedding, share kept", n, f"{share:.4f} of {keep:g}"),
        ("randomness", "embedding, neighbours alike", n // 2, f"{fate:.4f} of {alike:.2f}"),
    ]


def _epochs() -> list[Row]:
    n, orders = loop.PLACES, loop.ORDERS
    pairs = n // loop.EPOCH_BATCH * math.comb(loop.EPOCH_BATCH, 2)
    again = pairs**2 / math.comb(loop.EXAMPLES, 2)
    near = 7 / 32  # of two uniform numbers, how often the first is the larger by up to a quarter
    # Rare events are nearly of Poisson's distribution.
    variances = {"correlation": 1 / n, "again": again, "in place": 1.0, "forward": near * n}
    deviations = power.deviations_seen(loop.LEVEL, known=orders)
    seen = {name: deviations * math.sqrt(2 * variance / orders) for name, variance in variances.items()}
    # Of three independent uniform numbers, |a - b| has variance 1/18, and covariance 1/180 with |b - c|: the mean of n
    # distances in a row has variance (1/18 + 2/180) / n = 1/15n.
    distance = power.deviations_seen(loop.LEVEL) * math.sqrt(2 / 15 / (loop.EPOCH_BATCH - 1) / loop.BATCHES)
    return [
        ("epochs", "examples moved forward by up to a quarter", orders, f"{seen['forward']:.1f} of {near * n:.0f}"),
        ("epochs", "place by number, correlation", orders, f"{seen['correlation']:.3f}"),
        ("epochs", "neighbours, mean distance", loop.BATCHES, f"{distance:.4f} of 0.333"),
        ("epochs", "pairs in one batch that meet again", orders, f"{seen['again']:.1f} of {again:.0f}"),
        ("epochs", "examples at their own place", orders, f"{seen['in place']:.2f} of 1"),
        ("epochs", "even numbers in a batch", loop.BATCHES, _variance(loop.BATCHES, loop.LEVEL)),
    ]


def _variance(n: int, level: float) -> str:
    fisher = stats.f(n - 1, n - 1)
    return f"{fisher.isf(level / 2) * fisher.isf(1 - tolerances.SEEN):.1f} times the variance"


def _augmentation() -> list[Row]:
    a = augmentation
    n, pairs = a.STEPS * a.IMAGES, a.STEPS * a.IMAGES // 2
    share = power.share_seen(0.5, n, n, a.LEVEL, known=a.IMAGES)
    fate = power.share_seen(0.5, pairs, pairs, a.LEVEL, known=a.IMAGES // 2)
    untrue = power.exception_seen(a.MIXED_STEPS, a.LEVEL, known=a.MIXED_STEPS)
    own = power.distance_seen(a.MIXED_STEPS, a.MIXED_STEPS, a.LEVEL)
    either = power.share_seen(0.5, a.EITHER_STEPS, a.EITHER_STEPS, a.LEVEL, known=a.EITHER_STEPS)
    return [
        ("augmentation", "flips, share", n, f"{share:.3f} of 0.5"),
        ("augmentation", "flips, images of a step", a.STEPS, _variance(a.STEPS, a.LEVEL)),
        ("augmentation", "flips, neighbours alike", pairs, f"{fate:.3f} of 0.5"),
        ("augmentation", "targets that do not say what is seen", a.MIXED_STEPS, f"{untrue:.3f} of all steps"),
        ("augmentation", "mixup, a share for each image", a.MIXED_STEPS, f"{untrue:.3f} of all steps"),
        ("augmentation", "own share of mixup and CutMix", a.MIXED_STEPS, f"distributions {own:.2f} apart"),
        ("augmentation", "share of mixup, of the two", a.EITHER_STEPS, f"{either:.2f} of 0.5"),
        *(
            ("augmentation", name, draws, f"a correlation of {power.correlation_seen(draws, draws, a.LEVEL):.2f}")
            for name, draws in (
                ("flips and crops", n),
                ("row and column of CutMix's box", a.MIXED_STEPS),
                ("mixup or CutMix, kind and share", a.EITHER_STEPS),
            )
        ),
    ]


def _erasing() -> list[Row]:
    a = augmentation
    images, level = a.ERASED_STEPS * a.IMAGES, a.LEVEL
    n, pairs = round(images * a.ERASING), images // 2
    share = power.share_seen(a.ERASING, images, images, level, known=a.IMAGES)
    spared = (1 - a.ERASING) ** 2  # two that are not erased are alike; of two rectangles hardly any are
    fate = power.share_seen(spared, pairs, pairs, level, known=a.IMAGES // 2)
    # One over the values in a rectangle, on average: its area is uniform.
    low, high = (math.prod(a.SIZE) * CONFIG.channels * share for share in ERASED_AREA)
    few = math.log(high / low) / (high - low)
    mean = power.mean_seen(math.sqrt(few), n, n, level, known=n)
    square = power.mean_seen(math.sqrt(2 * few), n, n, level, known=n)
    return [
        ("augmentation", "erasing, share", images, f"{share:.3f} of {a.ERASING:g}"),
        ("augmentation", "erasing, neighbours alike", pairs, f"{fate:.3f} of {spared:.3f}"),
        (
            "augmentation",
            "erasing, rectangles with holes, or of few values",
            n,
            f"{power.exception_seen(n, level, known=n):.3f} of all",
        ),
        ("augmentation", "erasing, mean of the values", n, f"{mean:.3f} of a standard deviation"),
        ("augmentation", "erasing, mean square of the values", n, f"{square:.3f} of 1"),
        (
            "augmentation",
            "erasing: area, ratio, place",
            n,
            f"distributions {power.distance_seen(n, n, level):.3f} apart",
        ),
        (
            "augmentation",
            "erasing, rectangles in the last row or column",  # of a quarter of all, at most
            n,
            f"{power.share_seen(1 / 4, n, n, level, known=n):.3f} of 0.25",
        ),
    ]


def _trivial_augment() -> list[Row]:
    a = augmentation
    n, pairs = a.STEPS * a.IMAGES, a.STEPS * a.IMAGES // 2
    # At most a quarter of all images is left as it is, by operations that do nothing to a picture or do so at their
    # weakest; so are two neighbours at once in a sixteenth of pairs.
    left = power.share_seen(1 / 4, n, n, a.LEVEL, known=a.IMAGES)
    fate = power.share_seen(1 / 16, pairs, pairs, a.LEVEL, known=a.IMAGES // 2)
    changes = n * 3 // 4
    distance = power.distance_seen(changes, changes, a.LEVEL)
    found, once = a.different(a.trivially_augmented(Twin(CONFIG, "cpu"), a.noise(1, CONFIG), CONFIG))
    edges = float(a.sharp_edges(Twin(CONFIG, "cpu"), CONFIG).mean())
    white = a.EDGE_STEPS * a.IMAGES
    sharp = power.share_seen(edges, white, white, a.LEVEL, known=a.IMAGES)
    fewer = power.deviations_seen(a.LEVEL) * math.sqrt(2 * once)
    return [
        ("augmentation", "TrivialAugment, images left as they are", n, f"{left:.3f} of 0.25"),
        ("augmentation", "TrivialAugment, neighbours alike", pairs, f"{fate:.3f} of {1 / 16:.3f}"),
        ("augmentation", "TrivialAugment, change", changes, f"distributions {distance:.3f} apart"),
        ("augmentation", "TrivialAugment, different images", n, f"{fewer:.0f} of {found}"),
        ("augmentation", "TrivialAugment and crops, sharp edges", white, f"{sharp:.3f} of {edges:.3f}"),
    ]


if __name__ == "__main__":
    print(table())
