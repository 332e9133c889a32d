"""A batch divided among devices: the same maths as on one, and a part for each."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from conformance.cases import Case
from conformance.flax_side import DividedSide
from conformance.ladder import Ladder
from conformance.rungs import BY_NAME
from vit_flax import devices, loop, train
from vit_flax.config import preset
from vit_flax.data import Dataset
from vit_flax.devices import divided, everywhere, mean_over_parts, mesh_for
from vit_flax.recipe import recipe

BATCH, BOTH = 8, mesh_for(2)


def trajectory_holds():
    """Of the small model, against the twin's, on both devices."""
    case = Case("twin:digits", num_layers=1)
    ground = Ladder(DividedSide, name="divided", cases=[case]).ground(case)
    return all(diff.passes for diff in BY_NAME["trajectory"].climb(ground))


def test_training_is_that_of_the_twin(quickly_compiled):
    assert trajectory_holds()


def test_a_part_left_out_would_show(quickly_compiled, monkeypatch):
    def of_the_first(function, mesh):
        return lambda params, rng, batch: function(params, rng, jax.tree.map(lambda x: x[: len(x) // 2], batch))

    monkeypatch.setattr(train, "mean_over_parts", of_the_first)
    jax.clear_caches()  # which know the sound step
    try:
        assert not trajectory_holds()
    finally:
        jax.clear_caches()


def test_there_are_two_devices_to_divide_among():
    assert BOTH.size == len(jax.devices()) == devices.ON_A_CPU


@pytest.mark.parametrize(("count", "batch_size", "used"), [(1, 8, 1), (2, 8, 2), (2, 7, 1), (4, 6, 3), (8, 1, 1)])
def test_as_many_devices_as_the_batch_divides_among(monkeypatch, count, batch_size, used):
    made = np.array([object() for _ in range(count)])
    monkeypatch.setattr(jax, "devices", lambda: list(made))
    monkeypatch.setattr(devices, "Mesh", lambda chosen, axes: (list(chosen), axes))
    assert mesh_for(batch_size) == (list(made[:used]), ("images",))


def test_arrays_are_cut_along_their_axis():
    rows = np.arange(12).reshape(3, 4)
    parts = [shard.data.tolist() for shard in divided(rows, BOTH, axis=1).addressable_shards]
    assert parts == [rows[:, :2].tolist(), rows[:, 2:].tolist()]
    assert [shard.data.shape for shard in everywhere(rows, BOTH).addressable_shards] == [(3, 4)] * 2


def test_a_mean_over_parts_is_that_of_the_whole():
    def function(factor, rng, batch):
        return {"mean": factor * batch.mean(), "drawn": jax.random.uniform(rng), "ones": jnp.ones(3)}

    batch, rng = jnp.arange(8.0), jax.random.key(0)
    found = mean_over_parts(function, BOTH)(2.0, rng, batch)
    assert found["mean"] == 2 * batch.mean()
    assert found["ones"].tolist() == [1, 1, 1]
    draws = [jax.random.uniform(jax.random.fold_in(rng, part)) for part in range(2)]
    assert found["drawn"] == (draws[0] + draws[1]) / 2
    assert draws[0] != draws[1]
    assert mean_over_parts(function, mesh_for(1)) is function


@pytest.fixture(scope="module")
def states(quickly_compiled):
    """Before and after an epoch without dropout or chance, on one device and on both."""
    config, plain = preset("digits").replace(num_layers=1), recipe("digits").replace(batch_size=BATCH, dropout=0.0)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (2 * BATCH, 8, 8, 1), dtype=np.uint8), rng.integers(0, 10, 2 * BATCH)
    data = Dataset(images, labels.astype(np.int32))

    def trained(mesh):
        model, params, key = train.initialize_model(plain.regularised(config), seed=0)
        state = train.create_train_state(model, params, key, plain, 2, mesh)
        return loop.train_epoch(state, everywhere(data, mesh), epoch=1)

    return data, trained(mesh_for(1)), trained(BOTH)


def test_an_epoch_divides_every_batch_and_keeps_the_state_whole(states):
    _, _, (state, metrics) = states
    held = {leaf.sharding.spec for leaf in jax.tree.leaves((state.params, state.opt_state, metrics))}
    assert held == {PartitionSpec()}
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(state.params))


def test_evaluation_counts_the_same_on_both_as_on_one(states):
    data, (one, _), (both, _) = states
    odd = Dataset(*(part[:-3] for part in data))  # the last batch is filled up
    logits = train.eval_step(one.replace(params=jax.device_get(both.params)), odd.images)
    assert train.eval_model(both, odd) == np.mean(logits.argmax(axis=-1) == odd.labels)


PROGRAM = """
import os, sys
import jax
from vit_flax.devices import split_cpu
if sys.argv[1] == "late":
    jax.devices()
print(split_cpu(), len(jax.devices()))
"""


@pytest.mark.parametrize(
    ("when", "given", "said"), [("early", None, "True 2"), ("early", "3", "True 3"), ("late", None, "False 1")]
)
def test_a_cpu_is_split_unless_it_has_been(monkeypatch, when, given, said):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    if given:
        monkeypatch.setenv("JAX_NUM_CPU_DEVICES", given)
    run = subprocess.run([sys.executable, "-c", PROGRAM, when], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == said
