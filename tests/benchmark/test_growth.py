"""How the time of a training step grows: with the batch, the tokens, the depth and the width, as exponents.

Twice the depth or the batch is twice the work. An exponent well above one says that something is done over again.
"""

import math

import pytest

from conformance.precision import on_gpu
from conformance.weights import random_weights
from tests.benchmark.contestants import Heat, flax_contestant
from tests.benchmark.race import race
from vit_flax.config import PRESETS, preset

pytestmark = pytest.mark.benchmark

BASE = preset("article-p4-untied").replace(num_layers=3)
BATCH, SECONDS = 32, 5.0
SIZES = (1, 2, 4)
# What grows, times each of the sizes; and the exponent it may have: of products in a batch of tokens, the work grows
# linearly with the batch, tokens and depth, and with the square of the width; of attention, with the square of the
# tokens. Overheads pull it down. A tenth is granted to the noise.
GROWS = {
    "batch": (lambda n: (BASE, BATCH * n), 1.1),
    "depth": (lambda n: (BASE.replace(num_layers=3 * n), BATCH), 1.1),
    "tokens": (lambda n: (BASE.replace(image_size=(32, 32 * n)), BATCH), 1.6),
    "width": (
        lambda n: (BASE.replace(embed_dim=96 * n, hidden_dim=96 * n, mlp_dim=384 * n), BATCH),
        2.1,
    ),
}


@pytest.mark.parametrize("what", GROWS)
def test_growth(benchmark, monkeypatch, what):
    grown, limit = GROWS[what]
    steps = {}
    for n in SIZES:
        config, batch_size = grown(n)
        monkeypatch.setitem(PRESETS, f"{what} x{n}", config)
        heat = Heat(f"{what} x{n}", batch_size, "bfloat16" if on_gpu() else "float32", "train")
        steps[n] = flax_contestant(heat, random_weights(config, seed=0)).run
        steps[n]()
    # The fastest of each: some rounds take three times as long, where the kernel has reclaimed what a step has kept.
    times = {n: min(seconds) for n, seconds in race(steps, SECONDS).items()}
    exponent = math.log(times[SIZES[-1]] / times[SIZES[0]]) / math.log(SIZES[-1] / SIZES[0])
    benchmark.group = "growth"
    benchmark.extra_info |= {"grows": what, "seconds": list(times.values()), "exponent": exponent}
    benchmark.pedantic(steps[1], rounds=3)
    assert exponent <= limit
