"""A run's folder: begun once, resumed bit for bit; and a loss that is NaN stops it."""

import dataclasses
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conformance import tolerances
from vit_flax import train
from vit_flax.checkpoint import CheckpointError, Checkpoints
from vit_flax.data import read_data
from vit_flax.lock import LOCK, LockError, locked
from vit_flax.optimizer import schedule
from vit_flax.run import Run, RunError, Stopped
from vit_flax.scalars import OF_EPOCHS, OF_STEPS
from vit_flax.settings import resolve

EPOCHS, BATCH_SIZE, SEED = 4, 128, 3
pytestmark = pytest.mark.usefixtures("quickly_compiled", "one_layer")


@pytest.fixture(scope="module")
def data():
    return read_data(None)


def settings_for(data, seed=SEED):
    return resolve("digits", "digits", dict(epochs=EPOCHS, batch_size=BATCH_SIZE), seed, None, data)


def leaves(run, which="last"):
    state = run.restored(which).state
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.step, state.params, state.opt_state))]


def same_bits(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A run without interruption."""
    run = Run.begin(tmp_path_factory.mktemp("runs") / "straight", settings_for(data))
    return run, run.train(data)


def logged(folder, what="epochs"):
    events = EventAccumulator(str(folder / "tensorboard" / what), size_guidance={"tensors": 0})  # all
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
    state, history, _ = run.restored("last")
    assert history == result["history"]
    assert train.eval_model(state, data.test) == result["test_acc"]


def test_tensorboard_gets_the_article_s_scalars(straight):
    run, result = straight
    found = logged(run.folder)
    expected = {(name, r["epoch"]): np.float32(r[name]) for r in result["history"] for name in OF_EPOCHS}
    assert found == expected


def test_tensorboard_gets_the_steps_too_and_those_of_a_resumed_run_go_on(straight, data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "STEPS_PER_CALL", 2)  # five calls an epoch
    run = Run.begin(tmp_path / "run", settings_for(data))
    with pytest.raises(Stopped):
        run.train(data, stop=after(3))
    assert 0 < run.steps_done() < 10
    result = run.train(data)

    series = {name: {} for name in OF_STEPS}
    # In the order of the steps: files begun within one second are read in the order of their names, 10 before 9.
    for (name, step), value in sorted(logged(run.folder, "steps").items()):
        series[name][step] = value
    loss, rate, speed = series.values()
    assert list(loss) == list(rate) == list(range(2, EPOCHS * 10 + 1, 2))
    assert len(loss) - 2 == len(speed)  # the first call of each time compiles
    assert all(speed.values())
    rounding = tolerances.ROUNDING_FACTOR * tolerances.summation_error(10)
    for epoch, record in enumerate(result["history"]):
        calls = [loss[step] for step in loss if epoch * 10 < step <= (epoch + 1) * 10]
        assert abs(np.mean(calls) - record["train/loss"]) <= rounding * np.max(calls)
    scheduled = schedule(run.settings.recipe, 10)
    assert rate == {step: np.float32(scheduled(step - 1)) for step in rate}


def test_the_best_checkpoint_is_the_last_of_the_best_epochs(straight):
    run, result = straight
    history = run.restored("best").history
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


def after(calls):
    """A stop that is asked for once it has been asked for so often."""
    asked = []

    def stop():
        asked.append(None)
        return len(asked) > calls

    return stop


def without_seconds(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


@pytest.mark.parametrize("calls", (0, 1, 4, 5, 7, 11))
def test_stopped_between_two_steps_and_resumed_equals_straight_on_bit_for_bit(
    straight, data, tmp_path, monkeypatch, calls
):
    monkeypatch.setattr(train, "STEPS_PER_CALL", 2)  # five calls an epoch
    run = Run.begin(tmp_path / "run", settings_for(data))
    with pytest.raises(Stopped) as stopped:
        run.train(data, stop=after(calls))
    assert run.steps_done() == stopped.value.step < EPOCHS * 10
    assert not (run.folder / "result.json").exists()
    result = Run.open(run.folder).train(data)
    assert same_bits(leaves(run), leaves(straight[0]))
    assert same_bits(leaves(run, "best"), leaves(straight[0], "best"))
    assert without_seconds(result["history"]) == without_seconds(straight[1]["history"])
    assert logged(run.folder) == logged(straight[0].folder)


def test_the_epoch_under_way_keeps_its_time(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "STEPS_PER_CALL", 2)
    run = Run.begin(tmp_path / "run", settings_for(data))
    with pytest.raises(Stopped):
        run.train(data, stop=after(3))
    before = run.restored("last").begun.seconds
    assert run.train(data, stop_after=1)["history"][0]["seconds"] > before > 0


def test_a_run_is_kept_within_epochs_as_often_as_asked(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "STEPS_PER_CALL", 2)
    steps = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, state, *_: steps.append(int(state.step)))
    Run.begin(tmp_path / "run", settings_for(data)).train(data, stop_after=2, every=3)
    assert steps == [4, 8, 10, 14, 18, 20]


CONSTANT = dict(batch_size=BATCH_SIZE, schedule="constant", warmup_epochs=0.0)


def test_a_finished_run_that_is_extended_equals_a_longer_one_bit_for_bit(data, tmp_path):
    short, long = (resolve("digits", "digits", CONSTANT | {"epochs": n}, SEED, None, data) for n in (1, 3))
    straight = Run.begin(tmp_path / "straight", long)
    straight.train(data)
    Run.begin(tmp_path / "run", short).train(data)
    run = Run.resume(tmp_path / "run", long)
    with pytest.raises(Stopped):
        run.train(data, stop=after(0))
    assert (Run.open(run.folder).settings, Run.open(run.folder).planned) == (long, (1,))
    result = Run.open(run.folder).train(data)  # goes on to the new end by itself
    assert [record["epoch"] for record in result["history"]] == [1, 2, 3]
    assert same_bits(leaves(Run.open(run.folder)), leaves(straight))


def test_a_run_is_extended_by_nothing_but_more_epochs(straight, data):
    settings, other = straight[0].settings, settings_for(data, seed=SEED + 1)
    for epochs, seed in ((EPOCHS - 1, SEED), (EPOCHS + 1, SEED + 1)):
        recipe = settings.recipe.replace(epochs=epochs)
        wanted = dataclasses.replace(settings if seed == SEED else other, recipe=recipe)
        with pytest.raises(RunError, match=f"recipe.epochs was {EPOCHS}, not {epochs}"):
            Run.resume(straight[0].folder, wanted)


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


def test_a_run_that_was_killed_as_it_began_can_begin_again_and_is_no_run_before(data, tmp_path):
    (tmp_path / "run.json.part").write_text('{"settings": {"pre')
    (tmp_path / "lock").write_text("{}")
    with pytest.raises(RunError, match=rf"{tmp_path} holds no run"):
        Run.open(tmp_path)
    Run.begin(tmp_path, settings_for(data))
    assert Run.open(tmp_path).settings == settings_for(data)
    assert not (tmp_path / "run.json.part").exists()


def test_a_second_process_is_told_of_the_first_and_changes_nothing(straight, data):
    run, _ = straight
    before = written(run.folder)
    with locked(run.folder), pytest.raises(LockError, match=f"{run.folder} is in use by process {os.getpid()} on"):
        Run.open(run.folder).train(data)
    assert written(run.folder) == before


def written(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != LOCK}


@pytest.mark.parametrize(
    ("change", "named"),
    (
        (lambda kept: kept.update(seed=9), "seed was 3, not 9"),
        (lambda kept: kept["recipe"].update(learning_rate=0.5), r"recipe.learning_rate was 0.002, not 0.5"),
        (lambda kept: kept["config"].update(num_heads=1), r"config.num_heads was \d, not 1"),
        (lambda kept: kept["recipe"].update(epochs=9), r"recipe.epochs was 4, not 9"),
    ),
    ids=("seed", "rate", "heads", "epochs"),
)
def test_settings_that_were_edited_after_a_checkpoint_are_refused(straight, data, tmp_path, change, named):
    shutil.copytree(straight[0].folder, tmp_path / "run")
    file = tmp_path / "run/run.json"
    kept = json.loads(file.read_text())
    change(kept["settings"])
    file.write_text(json.dumps(kept))
    with pytest.raises(CheckpointError, match=f"/40 was trained with other settings than run.json has: {named}$"):
        Run.open(tmp_path / "run").train(data)
    with pytest.raises(CheckpointError, match=named):
        Run.open(tmp_path / "run").restored("best")


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_to_the_same_bits(
    straight, data, tmp_path, capsys
):
    run, result = Run(tmp_path / "run", straight[0].settings), straight[1]
    shutil.copytree(straight[0].folder, run.folder)
    (run.folder / "checkpoints/40/progress.json").write_text("{}")
    assert run.train(data)["test_acc"] == result["test_acc"]
    assert re.search(r"checkpoints/40 .* looks damaged .*: taking .*/30 instead\n", capsys.readouterr().err)
    assert same_bits(leaves(run), leaves(straight[0]))
    assert capsys.readouterr().err == ""


def test_a_loss_that_is_nan_stops_the_run_and_names_step_and_checkpoint(data, tmp_path, monkeypatch):
    run = Run.begin(tmp_path / "run", settings_for(data))
    run.train(data, stop_after=2)
    kept = leaves(run)
    restore = Checkpoints.restore

    def spoilt(*args):
        kept = restore(*args)
        return kept._replace(state=kept.state.replace(params=jax.tree.map(lambda x: x * np.nan, kept.state.params)))

    monkeypatch.setattr(Checkpoints, "restore", spoilt)
    with pytest.raises(RunError, match=r"not finite at step 21; the last good checkpoint: .*run/checkpoints/20$"):
        Run.open(run.folder).train(data)
    monkeypatch.undo()
    assert same_bits(leaves(run), kept)
