"""The statistical gates, and the smallest deviation that each sees: a table for docs/proofs.md.

python -m conformance.gates     # print it
"""

import math

from scipy import stats

from conformance import augmentation, initialisation, loop, pixels, power, randomness, tolerances
from vit_flax.config import preset
from vit_flax.weights import canonical_shapes

CONFIG, IMAGES = preset("digits"), 16  # what the figures are for, where they depend on it
HEADER = ("rung", "statistic", "draws a side", f"smallest deviation seen with probability {tolerances.SEEN:g}")

Row = tuple[str, str, int, str]


def table() -> str:
    """Markdown, derived from the gates' own numbers."""
    rows = [HEADER, ("---",) * len(HEADER), *_boxes(), *_fresh_weights(), *_dropout(), *_epochs(), *_augmentation()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _boxes() -> list[Row]:
    n = pixels.DRAWS
    seen = power.distance_seen(n, n, pixels.LEVEL)
    return [("pixels", "boxes: place, area, ratio", n, f"distributions {seen:.3f} apart")]


def _fresh_weights() -> list[Row]:
    shapes = canonical_shapes(CONFIG)
    level = tolerances.FALSE_ALARMS / (3 * len(shapes))
    kurtosis = 3 + float(stats.truncnorm(-2, 2).stats("k"))
    rows: list[Row] = []
    for leaf in ("head/kernel", "encoder/00/mlp/fc1/kernel"):
        n = initialisation.SEEDS * math.prod(shapes[leaf])
        spread, beyond = power.spread_seen(kurtosis, n, n, level), power.beyond_seen(n, n, level)
        rows += [
            ("initialisation", f"{leaf}, distribution", n, f"{power.distance_seen(n, n, level):.3f} apart"),
            ("initialisation", f"{leaf}, spread", n, f"a factor of {math.exp(spread):.3f}"),
            ("initialisation", f"{leaf}, entries beyond", n, f"{beyond:.4f} of all entries"),
        ]
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
    n, deviations = loop.PLACES, power.deviations_seen(loop.LEVEL)
    correlation, distance = deviations * math.sqrt(2 / n), deviations * math.sqrt(2 / 15 / n)
    return [
        ("epochs", "place by number, correlation", n, f"{correlation:.3f}"),
        ("epochs", "neighbours, mean distance", n, f"{distance:.3f} of 0.333"),
    ]


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
        ("augmentation", "flips, neighbours alike", pairs, f"{fate:.3f} of 0.5"),
        ("augmentation", "targets that do not say what is seen", a.MIXED_STEPS, f"{untrue:.3f} of all steps"),
        ("augmentation", "own share of mixup and CutMix", a.MIXED_STEPS, f"distributions {own:.2f} apart"),
        ("augmentation", "share of mixup, of the two", a.EITHER_STEPS, f"{either:.2f} of 0.5"),
    ]


if __name__ == "__main__":
    print(table())
