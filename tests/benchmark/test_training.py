"""Training throughput: how many steps to run in one call, and the input pipeline on the device beside the host's."""

from functools import partial

import jax
import numpy as np
import pytest

from reference import data as host
from tests.benchmark.race import race, ratio
from vit_flax import loop, train
from vit_flax.config import preset
from vit_flax.data import Dataset
from vit_flax.devices import divided, everywhere, mesh_for
from vit_flax.recipe import recipe

STEPS = 8
RECIPE = recipe("article")
IMAGES = STEPS * RECIPE.batch_size
ROUNDS, SECONDS = 3, 10.0
MESH = mesh_for(RECIPE.batch_size)
LOSSES: set[float] = set()  # of that epoch, however it is cut into calls

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    return Dataset(images, rng.integers(0, 10, IMAGES, dtype=np.int32))


def fresh():
    model, params, rng = train.initialize_model(preset("article"), seed=0)
    return train.create_train_state(model, params, rng, RECIPE, STEPS, MESH)


def record(benchmark, group):
    benchmark.group = group
    benchmark.extra_info["images_per_second"] = round(IMAGES / benchmark.stats.stats.median, 1)


@pytest.mark.parametrize("steps_per_call", (1, 4, STEPS))
def test_epoch(benchmark, dataset, monkeypatch, steps_per_call):
    """One step a call, four, or the whole epoch: the same losses, and which is fastest."""
    monkeypatch.setattr(train, "STEPS_PER_CALL", steps_per_call)
    on_device = everywhere(dataset, MESH)
    losses = []

    def epoch(state):
        _, metrics = loop.train_epoch(state, on_device, epoch=1)
        losses.append(float(metrics.loss))

    epoch(fresh())  # compiles
    benchmark.pedantic(epoch, setup=lambda: ((fresh(),), {}), rounds=ROUNDS)
    record(benchmark, "epoch, steps a call")
    LOSSES.update(losses)
    assert len(LOSSES) == 1


def test_the_pipeline_is_not_the_bottleneck(benchmark, dataset):
    """Steps with the pipeline in them beside the same steps on a batch that is already there."""
    on_device, rows = everywhere(dataset, MESH), divided(train.epoch_rows(fresh(), 1, IMAGES), MESH, axis=1)
    prepare = jax.jit(lambda rng, row: train.prepare(rng, train.take(on_device, row), fresh()))
    batch = prepare(jax.random.key(0), rows[0])

    @partial(jax.jit, donate_argnames="state")
    def constant(state, batch):
        return jax.lax.scan(lambda state, _: train.train_step(state, batch), state, length=STEPS)

    def with_pipeline():
        return train.train_steps(fresh(), on_device, rows)

    contestants = {
        "constant batch": lambda: jax.block_until_ready(constant(fresh(), batch)),
        "pipeline": lambda: jax.block_until_ready(with_pipeline()),
    }
    for run in contestants.values():
        run()
    times = race(contestants, SECONDS, rounds=(5, 15))
    benchmark.extra_info["pipeline_over_constant_batch"] = ratio(times, "constant batch", ours="pipeline")
    benchmark.pedantic(contestants["pipeline"], rounds=ROUNDS)
    record(benchmark, "training")


def pipeline_on_the_device(dataset):
    on_device, state = everywhere(dataset, MESH), fresh()
    prepare = jax.jit(lambda rng, row: train.prepare(rng, train.take(on_device, row), state))
    rows = divided(train.epoch_rows(state, 1, IMAGES), MESH, axis=1)

    def epoch():
        for step in range(STEPS):
            batch = prepare(jax.random.key(step), rows[step])
        jax.block_until_ready(batch)

    return epoch


def pipeline_of_the_article(dataset):
    """torchvision's transforms and a DataLoader; in this process, since JAX does not survive a fork."""
    held_out = RECIPE.batch_size  # of a batch more, so that both prepare as many
    images, labels = (np.concatenate([part, part[:held_out]]) for part in dataset)
    augmented = host.ArrayDataset(images, labels, host.train_transform)
    plain = host.ArrayDataset(images, labels, host.test_transform)
    loader, _, _ = host.loaders(augmented, plain, plain, batch_size=RECIPE.batch_size, held_out=held_out, workers=0)
    return lambda: list(loader)


def test_the_pipeline_beats_the_articles(benchmark, dataset):
    contestants = {"on the device": pipeline_on_the_device(dataset), "DataLoader": pipeline_of_the_article(dataset)}
    for run in contestants.values():
        run()
    times = race(contestants, SECONDS, rounds=(5, 15))
    benchmark.extra_info["times_as_fast_as_the_dataloader"] = ratio(times, "DataLoader", ours="on the device")
    benchmark.pedantic(contestants["on the device"], rounds=ROUNDS)
    record(benchmark, "input pipeline")
