"""A run's folder: begun once, resumed bit for bit, even after it was killed; and a loss that is NaN stops it."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vit_flax import train
from vit_flax.checkpoint import Checkpoints
from vit_flax.cli import main
from vit_flax.data import read_data
from vit_flax.run import SCALARS, Run, RunError
from vit_flax.settings import resolve

EPOCHS, BATCH_SIZE, SEED = 4, 128, 3
SMALL = ("--epochs", str(EPOCHS), "--batch-size", str(BATCH_SIZE), "--seed", str(SEED))
WITH_ONE_LAYER = """
import sys
from vit_flax.cli import main
from vit_flax.config import PRESETS
PRESETS["digits"] = PRESETS["digits"].replace(num_layers=1)
sys.exit(main(sys.argv[1:]))
"""

pytestmark = pytest.mark.usefixtures("quickly_compiled", "one_layer")


@pytest.fixture(scope="module")
def data():
    return read_data(None)


def settings_for(data, seed=SEED):
    return resolve("digits", "digits", dict(epochs=EPOCHS, batch_size=BATCH_SIZE), seed, None, data)


def leaves(run, which="last"):
    state, _ = run.restored(which)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.step, state.params, state.opt_state))]


def same_bits(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A run without interruption."""
    run = Run.begin(tmp_path_factory.mktemp("runs") / "straight", settings_for(data))
    return run, run.train(data)


def logged(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = {}
    for name in events.Tags()["tensors"]:
        for event in events.Tensors(name):
            found[name, event.step] = float(event.tensor_proto.float_val[0])
    return found


def test_a_run_leaves_all_that_it_promises(straight, data):
    run, result = straight
    assert json.loads((run.folder / "result.json").read_text()) == result
    assert (run.folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((run.folder / "run.json").read_text())
    assert kept["environment"]["packages"].keys() >= {"jax", "flax", "optax"}
    assert kept["settings"]["recipe"]["epochs"] == EPOCHS
    assert [record["epoch"] for record in result["history"]] == list(range(1, EPOCHS + 1))
    state, history = run.restored("last")
    assert history == result["history"]
    assert train.eval_model(state, data.test) == result["test_acc"]


def test_tensorboard_gets_the_article_s_scalars(straight):
    run, result = straight
    found = logged(run.folder)
    expected = {(name, r["epoch"]): np.float32(r[name]) for r in result["history"] for name in SCALARS}
    assert found == expected


def test_the_best_checkpoint_is_the_last_of_the_best_epochs(straight):
    run, result = straight
    _, history = run.restored("best")
    accuracies = [record["val/acc"] for record in result["history"]]
    assert len(history) == max(i for i, a in enumerate(accuracies, 1) if a == max(accuracies))


@pytest.mark.parametrize("stop_after", (1, 3))
def test_stopped_and_resumed_equals_straight_on_bit_for_bit(straight, data, tmp_path, stop_after):
    run = Run.begin(tmp_path / "run", settings_for(data))
    assert len(run.train(data, stop_after=stop_after)["history"]) == stop_after
    assert not same_bits(leaves(run), leaves(straight[0]))
    result = Run.open(run.folder).train(data)
    assert same_bits(leaves(run), leaves(straight[0]))
    assert result["test_acc"] == straight[1]["test_acc"]
    assert logged(run.folder) == logged(straight[0].folder)


def test_another_seed_gives_other_bits(straight, data, tmp_path):
    run = Run.begin(tmp_path / "run", settings_for(data, seed=SEED + 1))
    run.train(data)
    assert not same_bits(leaves(run), leaves(straight[0]))


def test_a_folder_that_holds_something_is_not_touched(straight, data, tmp_path):
    (tmp_path / "thesis.tex").write_text("all I have")
    for folder in (tmp_path, straight[0].folder, tmp_path / "thesis.tex"):
        with pytest.raises(RunError, match="is not empty"):
            Run.begin(folder, settings_for(data))
    assert (tmp_path / "thesis.tex").read_text() == "all I have"


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RunError, match=rf"{tmp_path} holds no run"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"settings": {"preset"')
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        Run.open(tmp_path)


def test_a_loss_that_is_nan_stops_the_run_and_names_step_and_checkpoint(data, tmp_path, monkeypatch):
    run = Run.begin(tmp_path / "run", settings_for(data))
    run.train(data, stop_after=2)
    kept = leaves(run)
    restore = Checkpoints.restore

    def spoilt(*args):
        state, history = restore(*args)
        return state.replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params)), history

    monkeypatch.setattr(Checkpoints, "restore", spoilt)
    with pytest.raises(RunError, match=r"not finite at step 21; the last good checkpoint: .*run/checkpoints/last/2$"):
        Run.open(run.folder).train(data)
    monkeypatch.undo()
    assert same_bits(leaves(run), kept)


def test_killed_and_resumed_equals_straight_on_bit_for_bit(straight, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-c", WITH_ONE_LAYER, "train", *SMALL, "--out", str(out)]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    ) as killed:
        while not (out / "checkpoints/last/2").exists():
            assert killed.poll() is None, killed.communicate()
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "result.json").exists()
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert same_bits(leaves(Run.open(out)), leaves(straight[0]))
    assert logged(out) == logged(straight[0].folder)
