"""A run's folder: begun once, resumed bit for bit, even after it was killed; and a loss that is NaN stops it."""

import dataclasses
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
from vit_flax.data import Data, Dataset
from vit_flax.run import SCALARS, Run, RunError
from vit_flax.settings import resolve

EPOCHS = 4
SMALL = ("--epochs", str(EPOCHS), "--batch-size", "128")


@pytest.fixture(scope="module")
def data():
    """Two classes that differ in brightness."""
    rng = np.random.default_rng(0)

    def dataset(count):
        labels = np.arange(count, dtype=np.int32) % 2
        noise = rng.integers(0, 100, (count, 8, 8, 1))
        return Dataset((noise + 100 * labels[:, None, None, None]).astype(np.uint8), labels)

    return Data(dataset(80), dataset(21), dataset(30), ("dark", "light"), "toy")


def settings_for(data, seed=0):
    settings = resolve("digits", "digits", dict(epochs=EPOCHS, batch_size=16), seed, None, data)
    return dataclasses.replace(settings, config=settings.config.replace(num_layers=1))  # quick to compile


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
    run = Run.begin(tmp_path / "run", settings_for(data, seed=1))
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
    cross_entropy = train.loss.cross_entropy
    monkeypatch.setattr(train.loss, "cross_entropy", lambda *args: cross_entropy(*args) * np.nan)
    train.train_steps.clear_cache()
    with pytest.raises(RunError, match=r"not finite at step 11; the last good checkpoint: .*run/checkpoints/last/2$"):
        Run.open(run.folder).train(data)
    monkeypatch.undo()
    train.train_steps.clear_cache()
    assert same_bits(leaves(run), kept)


def vit_flax_train(out, *options):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(out.parent / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {**os.environ, **cache, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "vit_flax.cli", "train", "--out", str(out), *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)


def test_killed_and_resumed_equals_straight_on_bit_for_bit(tmp_path):
    second_epoch = tmp_path / "killed" / "checkpoints" / "last" / "2"
    with vit_flax_train(tmp_path / "killed", *SMALL) as killed:
        while not second_epoch.exists():
            assert killed.poll() is None, killed.communicate()
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    with (
        vit_flax_train(tmp_path / "killed", "--resume") as resumed,
        vit_flax_train(tmp_path / "straight", *SMALL) as straight,
    ):
        printed = resumed.communicate()[0], straight.communicate()[0]
    assert (resumed.returncode, straight.returncode) == (0, 0), printed
    assert same_bits(*(leaves(Run.open(tmp_path / name)) for name in ("killed", "straight")))
    assert logged(tmp_path / "killed") == logged(tmp_path / "straight")
