"""Is the Flax model at least as fast as what one would run instead? Forward passes and training steps, raced.

No figure is kept of a contestant that has not just computed the same logits, in this precision, as the float64 twin.
The best of the others is held against the newest record of this kind of device: `tox -e benchmark` fails where we have
become slower against it.
"""

import functools
import gc
import os
import statistics

import jax
import numpy as np
import pytest
import torch

from conformance.cases import Case
from conformance.check import assert_taps_match
from conformance.compare import measure, terms
from conformance.flax_side import FlaxSide
from conformance.ladder import Ladder
from conformance.precision import DTYPES, on_gpu, torch_device
from conformance.torch_side import Twin
from conformance.weights import random_weights
from tests.benchmark.contestants import MODES, PUBLISHED, Heat, contestants
from tests.benchmark.flops import forward_flops, train_flops
from tests.benchmark.peaks import matmul_peak
from tests.benchmark.race import OURS, Replay, best_of, race, ratio
from tests.benchmark.records import newest_ratios
from vit_flax.memory import hand_back

pytestmark = pytest.mark.benchmark

LOST = 0.9  # of the recorded ratio: below it is slower, not noise
SECONDS = 10.0  # of each race
# Without a GPU: as far as a step takes seconds. bfloat16 has no instructions of its own on most CPUs.
ON_CPU = {
    "float32": {
        "article": (1, 8, 32, 128),
        "article-p4": (1, 8, 32, 128),
        "vit_ti16": (1, 8, 32, 128),
        "vit_s16": (1, 8),
        "vit_b16": (1,),
    },
    "bfloat16": {"article": (1, 8), "vit_ti16": (1,)},
}
ON_GPU = (1, 8, 32, 128, 1024)
COMPILED_ON_CPU = (32, 128)  # batches that torch.compile races in: it takes minutes for each


def heats(gpu):
    sizes = {dtype: dict.fromkeys(ON_CPU["float32"], ON_GPU) for dtype in ON_CPU} if gpu else ON_CPU
    return [
        Heat(p, b, d, m) for d, models in sizes.items() for p, batches in models.items() for b in batches for m in MODES
    ]


def pytest_generate_tests(metafunc):
    if "heat" in metafunc.fixturenames:
        run = heats(metafunc.config.option.gpu)
        if "contestant" not in metafunc.fixturenames:
            return metafunc.parametrize("heat", run, ids=str)
        pairs = [(heat, name) for heat in run for name, _ in entries(heat)]
        metafunc.parametrize("heat, contestant", pairs, ids=[f"{heat}-{name}" for heat, name in pairs])


def entries(heat):
    compiled = on_gpu() or heat.batch_size in COMPILED_ON_CPU
    return list(contestants(heat, random_weights(heat.config, seed=0), compiled))


@pytest.fixture(autouse=True)
def one_thread_afterwards():
    """The test session pins PyTorch to one thread; in a race it has as many as it is fastest with."""
    yield
    torch.set_num_threads(1)


@functools.cache
def truth(heat):
    """Logits of the twin in float64."""
    weights = {name: leaf.astype(np.float64) for name, leaf in random_weights(heat.config, seed=0).items()}
    images, _ = heat.batch()
    return Twin(heat.config, torch_device()).taps(weights, images.astype(np.float64))["logits"]


def verify(heat, logits, of):
    """A contestant's logits are as near to float64 as the plain twin's: else its speed is that of another model."""
    ours, theirs = (array.astype(DTYPES[heat.dtype]) for array in (logits, of))
    diff = measure("logits", "free", ours, theirs, truth(heat), heat.dtype, terms(heat.config, "logits"))
    assert diff.passes, diff


@functools.cache
def finished(heat):
    """The race, run once: everyone's times, and everyone."""
    torch.set_num_threads(os.cpu_count() or 1)
    made = {name: make() for name, make in entries(heat)}
    for contestant in made.values():
        verify(heat, contestant.logits(), made["twin"].logits())
    for contestant in made.values():
        contestant.run()
    times = race({name: contestant.run for name, contestant in made.items()}, SECONDS)
    costs = {name: (c.compile_seconds, c.peak_memory, c.moved) for name, c in made.items()}
    made.clear()
    torch.compiler.reset()
    jax.clear_caches()
    gc.collect()
    hand_back()  # holes between what is left: race after race they add up to more than the machine has
    return times, costs


@pytest.mark.parametrize("preset", ("article", "article-p4", "vit_ti16"))
def test_gradients_are_those_of_the_twin(preset, pytestconfig):
    """Before training steps are raced: the same gradients, in float64 and float32."""
    case = Case(f"twin:{preset}", num_layers=2, scope="gradients")
    ladder = Ladder(FlaxSide, name=OURS, cases=[case], data=pytestconfig.option.data)
    assert_taps_match(ladder.outcome(case, "gradients float32"), "*")


CLOCK = Replay()


@pytest.mark.benchmark(timer=CLOCK)
def test_speed(benchmark, heat, contestant):
    times, costs = finished(heat)
    seconds, (compile_seconds, memory, moved) = times[contestant], costs[contestant]
    CLOCK.load(seconds)
    benchmark.group = str(heat)
    flops = heat.batch_size * (train_flops if heat.mode == "train" else forward_flops)(heat.config)
    speed = heat.batch_size / statistics.median(seconds)
    benchmark.extra_info |= {
        "contestant": contestant,
        "images_per_second": speed,
        "mfu": flops / statistics.median(seconds) / matmul_peak(heat.dtype),
        "compile_seconds": compile_seconds,
        "peak_memory": memory,
        "flops": flops,
        "bytes_moved": moved,
        "vit_flax_is_times_as_fast": ratio(times, contestant),
    }
    benchmark.pedantic(CLOCK.run, rounds=len(seconds))


def test_no_slower_than_recorded(heat):
    times, _ = finished(heat)
    recorded = newest_ratios().get(str(heat))
    if recorded is None:  # its own record is what the next race is held against
        pytest.skip("no record of this race on this kind of device")
    assert ratio(times, best_of({name: statistics.median(s) for name, s in times.items()})) >= LOST * recorded


def test_everyone_who_was_published_races():
    assert set(PUBLISHED) == {"vit_ti16", "vit_s16", "vit_b16"}
    names = [name for name, _ in entries(Heat("vit_b16", 32, "float32", "train"))]
    assert names == ["vit_flax", "twin", "timm", "timm compiled", "torchvision"]
    names = [name for name, _ in entries(Heat("article", 32, "float32", "train"))]
    assert names == ["vit_flax", "twin", "twin compiled"]
