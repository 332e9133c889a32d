"""A run that is stopped, or killed at any moment, in a save or before a file operation, goes on to the same bits."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from vit_flax.run import Run

EPOCHS, BATCH_SIZE, SEED = 6, 128, 3
OPTIONS = ("--epochs", str(EPOCHS), "--batch-size", str(BATCH_SIZE), "--seed", str(SEED), "--checkpoint-every", "3")
CAREFUL = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

pytestmark = pytest.mark.usefixtures("quickly_compiled", "one_layer")


def outcome(run, which):
    """All that a run leaves, but for the time it took."""
    state, history, begun = run.restored(which)
    records = [{name: value for name, value in record.items() if name != "seconds"} for record in history]
    return records, begun, [np.asarray(leaf) for leaf in jax.tree.leaves((state.step, state.params, state.opt_state))]


def check_same_run(run, other):
    for which in ("last", "best"):
        (records, begun, leaves), (other_records, _, other_leaves) = outcome(run, which), outcome(other, which)
        assert (records, begun) == (other_records, None)
        jax.tree.map(np.testing.assert_array_equal, leaves, other_leaves)


def kill(folder, kills, seed):
    """Runs that were killed so often all together, and how."""
    command = [sys.executable, "-m", "tests.unit.killing", str(folder), str(kills), str(seed), *OPTIONS]
    counts = json.loads(subprocess.run(command, env=CAREFUL, stdout=subprocess.PIPE, check=True).stdout)
    return [Run.open(folder / str(number)) for number in range(counts["complete"] + 1)], counts


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run without interruption, of the same program: this process may have compiled another before."""
    (run,), _ = kill(tmp_path_factory.mktemp("runs"), kills=0, seed=0)
    return run


def test_killed_a_few_times_and_resumed_equals_straight_on_bit_for_bit(straight, tmp_path):
    runs, _ = kill(tmp_path, kills=4, seed=0)
    for run in runs:
        check_same_run(run, straight)


@pytest.mark.slow
def test_killed_three_hundred_times_and_resumed_equals_straight_on_bit_for_bit(straight, tmp_path, capsys):
    runs, counts = kill(tmp_path, kills=300, seed=1)
    assert counts["inside a save"] >= 24
    for run in runs:
        check_same_run(run, straight)
    with capsys.disabled():
        print(f"\nkilled: {counts}")


def test_a_run_that_lost_a_step_would_be_found(straight):
    state, history, _ = straight.restored("last")
    worse = state.replace(params=jax.tree.map(lambda leaf: leaf * (1 + 2**-23), state.params))
    other = Run(straight.folder, straight.settings)
    other.restored = lambda which: (worse, history, None)
    with pytest.raises(AssertionError):
        check_same_run(other, straight)
