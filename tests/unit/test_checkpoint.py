"""What is kept comes back to the bit, and what is damaged is an error that names the folder."""

import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import StandardCheckpointer

from vit_flax.checkpoint import CheckpointError, Checkpoints, latest
from vit_flax.config import preset
from vit_flax.devices import everywhere, mesh_for
from vit_flax.recipe import recipe
from vit_flax.train import create_train_state

RECIPES = {
    "article": recipe("article"),
    "modern": recipe("modern"),  # with a schedule, clipping, decay and a running average
}
KEPT = ("step", "params", "opt_state", "average")


class Model:
    config = preset("digits")
    apply = print  # never called


def params_of(seed):
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    return {"head": {"kernel": leaf(64, 32), "bias": leaf(32)}, "cls_token": leaf(1, 1, 32)}


def state_after(steps, recipe=RECIPES["modern"], seed=0):
    """With nothing in it that is still as it began."""
    state = create_train_state(Model, params_of(seed), jax.random.key(seed), recipe, steps_per_epoch=2)
    for step in range(steps):
        state = state.apply_gradients(grads=params_of(100 + step))
    if state.average is not None:
        state = state.replace(average=params_of(1000 + steps))
    return state


def history_of(*val_acc):
    return [{"epoch": i, "train/loss": 0.1 + 0.2, "val/acc": value} for i, value in enumerate(val_acc, start=1)]


def save_all(folder, *val_acc):
    """A run with these validation accuracies, two steps an epoch."""
    with Checkpoints(folder) as checkpoints:
        for epoch in range(1, len(val_acc) + 1):
            checkpoints.save(state_after(2 * epoch), history_of(*val_acc[:epoch]))


def epoch_of(folder, which):
    """The epoch that is kept as the last or the best, by its state and by its history."""
    with Checkpoints(folder) as checkpoints:
        state, history = checkpoints.restore(which, state_after(0, seed=1))
    assert int(state.step) == 2 * len(history)
    return len(history)


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


def check_same(state, kept):
    """Structure, dtypes and bits of all that changes while training."""
    for name in KEPT:
        ours, theirs = getattr(state, name), getattr(kept, name)
        assert jax.tree.structure(theirs) == jax.tree.structure(ours), name
        jax.tree.map(same, theirs, ours)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_bit_of_a_state_comes_back(tmp_path, recipe):
    state, history = state_after(3, recipe), history_of(0.1, 1 / 3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, history)
    with Checkpoints(tmp_path) as checkpoints:
        fresh = state_after(0, recipe, seed=1)
        for which in ("last", "best"):
            back, kept_history = checkpoints.restore(which, fresh)
            check_same(state, back)
            assert kept_history == history
            assert back.rng is fresh.rng  # which the settings say


@pytest.mark.parametrize(("kept_on", "wanted_on"), [(1, 2), (2, 1)])
def test_a_state_comes_back_on_another_number_of_devices(tmp_path, kept_on, wanted_on):
    kept, wanted = (on(mesh_for(n), state_after(steps)) for n, steps in ((kept_on, 3), (wanted_on, 0)))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(kept, history_of(0.1))
        back, _ = checkpoints.restore("last", wanted)
    check_same(kept, back)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(back.params)} == {wanted_on}


def on(mesh, state):
    return everywhere(state.replace(mesh=mesh), mesh)


@pytest.mark.parametrize(
    "changes",
    (
        lambda state: {"step": state.step + 1},
        lambda state: {"params": state_after(2).params},
        lambda state: {"opt_state": state_after(2).opt_state},
        lambda state: {"opt_state": state.tx.init(state.params)},
        lambda state: {"average": state.params},
        lambda state: {"average": None},
        lambda state: {"params": jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.params)},
    ),
    ids=("step", "params", "opt_state", "fresh opt_state", "average", "no average", "dtype"),
)
def test_a_state_that_lost_something_would_be_found(changes):
    state = state_after(3)
    with pytest.raises(AssertionError):
        check_same(state, state.replace(**changes(state)))


def test_what_is_kept_is_the_state_as_it_was_when_it_was_saved(tmp_path):
    """Training goes on while it is being written, and reuses the memory of what it consumes."""
    state = state_after(3)
    expected = jax.tree.map(np.array, {name: getattr(state, name) for name in KEPT})
    forget = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 + 7, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, history_of(0.5))
        forget({name: getattr(state, name) for name in ("params", "average")})
        back, _ = checkpoints.restore("last", state_after(0))
    check_same(state_after(0).replace(**expected), back)


@pytest.mark.parametrize(
    ("val_acc", "best"),
    (
        ((0.5,), 1),
        ((0.5, 0.6, 0.4), 2),
        ((0.5, 0.6, 0.6, 0.4), 3),  # the later of equals
        ((0.6, 0.5, 0.5), 1),
        ((0.5, 0.6, 0.7), 3),
        ((0.0, 0.0), 2),
    ),
    ids=str,
)
def test_the_best_epoch_is_kept_beside_the_last(tmp_path, val_acc, best):
    save_all(tmp_path, *val_acc)
    assert (epoch_of(tmp_path, "last"), epoch_of(tmp_path, "best")) == (len(val_acc), best)


def test_no_other_epoch_is_kept(tmp_path):
    save_all(tmp_path, 0.5, 0.6, 0.4)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*") if path.name.isdecimal()}
    assert kept == {"best/2", "last/3"}


def test_the_path_is_where_it_lies(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.path("last"), checkpoints.path("best")) == (None, None)
    save_all(tmp_path, 0.6, 0.5)
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.path("last"), checkpoints.path("best")) == (tmp_path / "last/2", tmp_path / "best/1")
        assert checkpoints.path("last").is_dir()


def test_the_newer_epoch_counts_where_a_killed_run_left_both(tmp_path):
    for epoch in (9, 10):
        (tmp_path / str(epoch)).mkdir()
    assert latest(tmp_path) == tmp_path / "10"


def test_saving_an_epoch_again_changes_nothing(tmp_path):
    save_all(tmp_path, 0.5, 0.6)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_after(4), history_of(0.5, 0.6))
        checkpoints.save(state_after(4), history_of(0.5, 0.6))
    assert (epoch_of(tmp_path, "last"), epoch_of(tmp_path, "best")) == (2, 2)


def test_a_run_that_was_killed_between_best_and_last_saves_that_epoch_again(tmp_path):
    save_all(tmp_path, 0.5, 0.6)
    shutil.rmtree(tmp_path / "last")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_after(2), history_of(0.5))
        checkpoints.save(state_after(4), history_of(0.5, 0.6))
    assert (epoch_of(tmp_path, "last"), epoch_of(tmp_path, "best")) == (2, 2)


def test_the_best_is_complete_before_the_last_begins(tmp_path):
    """Or a run that is killed in between would go on from the last and never come by its best again."""
    save_all(tmp_path, 0.5)
    completed = (tmp_path / "best/1").stat().st_ctime_ns  # when it got this name
    assert min(file.stat().st_ctime_ns for file in (tmp_path / "last/1").rglob("*") if file.is_file()) >= completed


def test_what_a_killed_save_left_behind_is_no_checkpoint(tmp_path):
    save_all(tmp_path, 0.5)
    whole = tmp_path / "last/1"
    shutil.copytree(whole, tmp_path / "last/2.orbax-checkpoint-tmp-1700000000000000")
    shutil.copytree(whole, tmp_path / "best/2.orbax-checkpoint-tmp")
    shutil.copytree(whole, tmp_path / "best/part")
    shutil.copytree(whole, tmp_path / "part")
    assert (epoch_of(tmp_path, "last"), epoch_of(tmp_path, "best")) == (1, 1)
    save_all(tmp_path, 0.5, 0.6)
    assert (epoch_of(tmp_path, "last"), epoch_of(tmp_path, "best")) == (2, 2)


@pytest.mark.parametrize("which", ("last", "best"))
def test_no_checkpoint_yet_is_an_error_that_names_the_folder(tmp_path, which):
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=rf"^{re.escape(str(tmp_path))} has no"),
    ):
        checkpoints.restore(which, state_after(0))


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file):
    file.write_bytes(b"")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    save_all(folder, 0.6, 0.5)
    return folder


@pytest.mark.parametrize("harm", (truncate, flip, empty, Path.unlink), ids=lambda harm: harm.__name__)
def test_damage_to_any_file_is_an_error_that_names_the_folder(tmp_path, whole, harm, capfd):
    folder = tmp_path / "run"
    files = [file.relative_to(whole) for file in (whole / "last/2").rglob("*") if file.is_file()]
    assert sum((whole / file).stat().st_size for file in files) > 4 * 64 * 32  # the arrays are among them
    for file in files:
        shutil.copytree(whole, folder)
        harm(folder / file)
        with pytest.raises(
            CheckpointError, match=f"^{re.escape(str(folder / 'last/2'))} cannot be read and looks damaged"
        ):
            epoch_of(folder, "last")
        shutil.rmtree(folder)
    assert capfd.readouterr() == ("", "")  # one error, and not a word from the background


def test_damage_to_the_last_leaves_the_best_readable(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/last/2/state")
    assert epoch_of(tmp_path / "run", "best") == 1


def test_an_error_that_says_nothing_still_names_the_folder(whole, monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    with Checkpoints(whole) as checkpoints:
        monkeypatch.setattr(StandardCheckpointer, "restore", fail)
        with pytest.raises(CheckpointError, match=re.escape(str(whole / "last/2"))):
            checkpoints.restore("last", state_after(0))
