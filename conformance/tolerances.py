"""Every limit of the suite, with where it comes from. No other file holds one; a test looks for strays."""

import math
from typing import Any

import numpy as np
from scipy import stats

# Same maths? The largest difference in float64, relative to the tap's largest value. Two sound implementations
# differ by rounding alone (measured: up to 6.5e-15), and a wrong one by at least the weakest planted fault
# (measured: 1.1e-6, LayerNorm eps 1e-12). The limit stands between the two, and tests keep it this far from both.
FLOAT64 = 1e-12
FLOAT64_MARGIN = 100

# Same rounding quality? A candidate's error against the float64 truth may be this many times the error that
# must be granted: the reference's own, or the summation error below if that is more.
ROUNDING_FACTOR = 3.0

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# How often a sound target is called wrong by a statistical gate, over all its comparisons of one case together:
# few enough that a thousand runs of the suite raise no alarm.
FALSE_ALARMS = 1e-6
# The same for the envelope of float32 training, whose tail is extrapolated from a dozen runs: it says so less boldly.
ENVELOPE_FALSE_ALARMS = 1e-4
# The same for the accuracy of an epoch on a CPU, known from nine runs: fewer say it less boldly still.
ACCURACY_FALSE_ALARMS = 1e-3

# How far one normal deviate strays with the probability above, in standard deviations, of which `ROUNDING_FACTOR` are
# granted wherever an error is granted: for what is drawn only once.
ONE_DRAW = stats.norm.isf(FALSE_ALARMS / 2) / ROUNDING_FACTOR

# An error is rounding if it changes by this share of its own size, or more, when the images move by 2^-16. Rounding is
# drawn anew: two independent errors of one size differ by √2 of it. What is smooth changes by about as little as the
# images. The line lies where half of an error's variance is rounding, and half of it something else. (Measured on
# digits, over all taps: 1.24 to 1.6 for float32 in the whole model or in one block; 6e-6 to 2e-5 for another epsilon
# and for a constant off by 5e-8, both of which are within what float32 is granted.)
DRAWN_ANEW = 1.0

# A gate whose weakest fault exceeds its limit by less than this is called blind to it: another batch may hide it.
BLIND = 3.0

# The same pixels? In grey levels of 0 to 255: no level off, after normalisation in float32, which rounds a few times
# at up to 255 · 2^-24 (measured: up to 6e-5 levels). One missing rounding to whole levels is 0.25 on average.
GREY_LEVELS = 1e-3

# Statistical gates say the smallest deviation that they see with this probability.
SEEN = 0.99

# A top logit that leads by this share of the largest wins in float32 on both sides (measured: their float32 logits
# differ by up to 1e-6 of the largest).
CLEAR_LEAD = 1e-3

# A side that answers wrongly now and then: so often, and missed with this probability at most (`calls_to_see` says in
# how many calls: 66). One that errs more seldom is not held to be seen.
ODD_ANSWERS, ODD_ANSWERS_MISSED = 0.1, 1e-3

# A leaf that is drawn in a half precision has all of its entries there. Of float32 draws so few are that the line may
# lie in the middle (measured for 8,192 entries: 1 to 12, the most from torch's uniform_, which draws from a grid).
NARROW_DRAWS = 0.5

# Correlation of two leaves that can only come from the same random draws: of 64 entries, independent ones
# reach 0.65 with probability 1e-8.
SAME_DRAWS = 0.9


def summation_error(terms: int, precision: str = "float32") -> float:
    """Relative rms error of a `terms`-long inner product summed in plain order, by default in float32.

    After k terms the partial sum is of size √k and is rounded with relative rms error of about 0.41 unit
    roundoffs, so the errors add up to √(terms/2) of those (the random walk of Higham and Mary, SIAM J. Sci.
    Comput. 41, 2019). Kernels that sum in blocks do better, by up to the root of the number of blocks; a
    sound candidate may run a plain loop where its reference runs blocks. Half precisions accumulate in
    float32 too; but XLA on CPUs sums a parameter's gradient over tokens in the half precision itself (measured:
    0.96 % for a sum of 64 in bfloat16, where this says 0.91 %).
    """
    return 0.41 * UNIT_ROUNDOFF[precision] * math.sqrt(terms / 2)


def calls_to_see(share: float, missed: float) -> int:
    """How many calls it takes until all are right with probability `missed` only, where each errs with that `share`.

    Each of n independent calls is right with probability 1 - share, all of them with (1 - share)^n.
    """
    return math.ceil(math.log(missed) / math.log(1 - share))


def mean_error(features: int) -> float:
    """Relative rms error of the mean of so many float32 numbers that are nearly equal.

    Their partial sums grow evenly: the k-th of n rounds off k/n of 0.41 roundoffs of the sum, and together they err by
    √(n/3) of 0.41 roundoffs. That is for a plain sum, and a sound candidate may take a plain sum of up to 32 where its
    reference takes blocks, as XLA does on CPUs. (Measured behind LayerNorm, for tokens of mean 30: 3.3e-6, 2.9e-6,
    2.0e-6, 1.1e-6, 1.1e-6 and 1.9e-6 with 24, 32, 40, 64, 128 and 384 features; PyTorch's is 1.3e-6 to 1.5e-6 in all.)
    """
    return 0.41 * UNIT_ROUNDOFF["float32"] * math.sqrt(min(features, 32) / 3)


def loss_rounding(losses: np.ndarray, classes: int, smoothing: float) -> np.ndarray:
    """What float32 cross-entropies may be off by, relative to them, whatever came before.

    From logits to loss their maximum is subtracted, exponentials are taken, summed, a logarithm taken, and the label's
    logit subtracted: five roundings. The sum may be as wrong as a sum of so many classes, which the logarithm makes an
    absolute error; label smoothing sums as many terms again. (Measured for 1000 classes: up to 6.8 roundoffs, where
    this says 11.)
    """
    sums = ROUNDING_FACTOR * summation_error(classes)
    return 5 * UNIT_ROUNDOFF["float32"] + sums * (1 / np.abs(losses) + smoothing)


def prediction_reach(spread: Any, known: int, more: int, false_alarms: float) -> Any:
    """How far to one side the mean of some runs more strays from that of those known: Student's prediction interval.

    `spread` is the standard deviation of the known runs, a number or an array.
    """
    return stats.t.isf(false_alarms, known - 1) * spread * math.sqrt(1 / more + 1 / known)
