"""Training throughput: how many steps to run in one call, and the input pipeline on the device beside the host's."""

import jax
import numpy as np
import pytest

from reference import data as host
from vit_flax import train
from vit_flax.config import preset
from vit_flax.data import Dataset
from vit_flax.recipe import recipe

STEPS = 8
RECIPE = recipe("article")
IMAGES = STEPS * RECIPE.batch_size
ROUNDS = 3
LOSSES: set[float] = set()  # of that epoch, however it is cut into calls

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    return Dataset(images, rng.integers(0, 10, IMAGES, dtype=np.int32))


def fresh():
    model, params, rng = train.initialize_model(preset("article"), seed=0)
    return train.create_train_state(model, params, rng, RECIPE, STEPS)


def record(benchmark, group):
    benchmark.group = group
    benchmark.extra_info["images_per_second"] = round(IMAGES / benchmark.stats.stats.median, 1)


@pytest.mark.parametrize("steps_per_call", (1, 4, STEPS))
def test_epoch(benchmark, dataset, monkeypatch, steps_per_call):
    """One step a call, four, or the whole epoch: the same losses, and which is fastest."""
    monkeypatch.setattr(train, "STEPS_PER_CALL", steps_per_call)
    on_device = jax.device_put(dataset)
    losses = []

    def epoch(state):
        _, metrics = train.train_epoch(state, on_device, epoch=1)
        losses.append(float(metrics.loss))

    epoch(fresh())  # compiles
    benchmark.pedantic(epoch, setup=lambda: ((fresh(),), {}), rounds=ROUNDS)
    record(benchmark, "epoch, steps a call")
    LOSSES.update(losses)
    assert len(LOSSES) == 1


def test_pipeline_on_the_device(benchmark, dataset):
    on_device = jax.device_put(dataset)
    state = fresh()
    rows = train.epoch_rows(state, 1, IMAGES)
    prepare = jax.jit(lambda rng, row: train.prepare(rng, train.take(on_device, row), state))

    def epoch():
        for step, row in enumerate(rows):
            batch = prepare(jax.random.key(step), row)
        jax.block_until_ready(batch)

    epoch()
    benchmark.pedantic(epoch, rounds=ROUNDS)
    record(benchmark, "input pipeline")


def test_pipeline_of_the_article(benchmark, dataset):
    """torchvision's transforms and a DataLoader; in this process, since JAX does not survive a fork."""
    augmented = host.ArrayDataset(dataset.images, dataset.labels, host.train_transform)
    plain = host.ArrayDataset(dataset.images, dataset.labels, host.test_transform)
    loader, _, _ = host.loaders(
        augmented, plain, plain, batch_size=RECIPE.batch_size, held_out=RECIPE.batch_size, workers=0
    )
    benchmark.pedantic(lambda: list(loader), rounds=ROUNDS)
    benchmark.group = "input pipeline"
    benchmark.extra_info["images_per_second"] = round((IMAGES - RECIPE.batch_size) / benchmark.stats.stats.median, 1)
