"""Every limit of the suite, with where it comes from. No other file holds one; a test looks for strays."""

import math

# Same maths? The largest difference in float64, relative to the tap's largest value. Two sound implementations
# differ by rounding alone (measured: up to 6.5e-15), and a wrong one by at least the weakest planted fault
# (measured: 1.1e-6, LayerNorm eps 1e-12). The limit stands between the two, and tests keep it this far from both.
FLOAT64 = 1e-12
FLOAT64_MARGIN = 100

# Same rounding quality? A candidate's error against the float64 truth may be this many times the error that
# must be granted: the reference's own, or the summation error below if that is more.
ROUNDING_FACTOR = 3.0


def summation_error(terms: int) -> float:
    """Relative rms error of a `terms`-long inner product summed in plain order in float32.

    After k terms the partial sum is of size √k and is rounded with relative rms error of about 0.41 unit
    roundoffs, so the errors add up to √(terms/2) of those (the random walk of Higham and Mary, SIAM J. Sci.
    Comput. 41, 2019). Kernels that sum in blocks do better, by up to the root of the number of blocks; a
    sound candidate may run a plain loop where its reference runs blocks. Half precisions accumulate in
    float32 too.
    """
    unit_roundoff = 2.0**-24
    return 0.41 * unit_roundoff * math.sqrt(terms / 2)
