"""Forward passes of the Flax model, jitted, beside the PyTorch twin on the same weights and images.

No number is kept for a model that has not just been shown to be the same in this very precision.
"""

import os

import jax
import numpy as np
import pytest
import torch

from conformance.cases import Case
from conformance.check import assert_taps_match
from conformance.flax_side import FlaxSide
from conformance.ladder import Ladder
from conformance.precision import to_torch
from vit_flax import ViT
from vit_flax.weights import to_params

CASES = (Case("twin:article"), Case("twin:article-p4"), Case("twin:vit_ti16", num_layers=2))
BATCH_SIZE = 32

pytestmark = pytest.mark.benchmark


@pytest.fixture(autouse=True)
def all_cores():
    """The test session pins PyTorch to one thread; a fair race has them all."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=CASES, ids=str)
def verified(request, pytestconfig):
    """Case, weights, images and twin, of a case that passes the float32 rung."""
    case = request.param
    ladder = Ladder(FlaxSide, name="vit_flax", cases=[case], data=pytestconfig.option.data)
    assert_taps_match(ladder.outcome(case, "float32"), "*")
    reference = case.build_reference(case.config)
    reference.load(ladder.weights(case))
    images = np.random.default_rng(0).uniform(-1, 1, (BATCH_SIZE, *case.config.image_size, 3)).astype(np.float32)
    return case, ladder.weights(case), images, reference


def measure(benchmark, side, run):
    run()  # compile and warm up
    benchmark.extra_info["side"] = side
    benchmark.pedantic(run, rounds=10)
    benchmark.extra_info["images_per_second"] = round(BATCH_SIZE / benchmark.stats.stats.median, 1)


def test_flax_forward(benchmark, verified):
    case, weights, images, _ = verified
    benchmark.group = str(case)
    params, images = jax.device_put((to_params(weights, case.config), images))
    forward = jax.jit(ViT(case.config).apply)
    measure(benchmark, "vit_flax", lambda: forward({"params": params}, images).block_until_ready())


def test_twin_forward(benchmark, verified):
    case, _, images, reference = verified
    benchmark.group = str(case)
    images = to_torch(images, reference.device)

    def run():
        with torch.inference_mode():
            return reference.model(images).cpu()

    measure(benchmark, "twin", run)
