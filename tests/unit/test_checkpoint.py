"""What is kept comes back to the bit: the last epoch and the best; and no settings but its own are taken."""

import dataclasses
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import StandardCheckpointer

from vit_flax import durable
from vit_flax.checkpoint import CheckpointError, Checkpoints
from vit_flax.config import preset
from vit_flax.devices import everywhere, mesh_for
from vit_flax.loop import Begun
from vit_flax.recipe import recipe
from vit_flax.settings import Settings
from vit_flax.train import Metrics, create_train_state

RECIPES = {
    "article": recipe("article"),
    "modern": recipe("modern"),  # with a schedule, clipping, decay and a running average
}
KEPT = ("step", "params", "opt_state", "average")
STEPS_PER_EPOCH = 2
SETTINGS = Settings(
    preset="digits",
    config=preset("digits"),
    recipe_name="modern",
    recipe=RECIPES["modern"].replace(batch_size=10),
    seed=3,
    data=None,
    source="toy shapes",
    digest="0123",
    train_images=10 * STEPS_PER_EPOCH,
    classes=("circle", "square"),
)


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


def kept_in(folder, settings=SETTINGS, **planned):
    return Checkpoints(folder, settings, **planned)


def save_all(folder, *val_acc, settings=SETTINGS):
    """A run with these validation accuracies."""
    with kept_in(folder, settings) as checkpoints:
        for epoch in range(1, len(val_acc) + 1):
            checkpoints.save(state_after(STEPS_PER_EPOCH * epoch), history_of(*val_acc[:epoch]))


def epoch_of(folder, which):
    """The epoch that is kept as the last or the best, by its state and by its history."""
    with kept_in(folder) as checkpoints:
        state, history, begun = checkpoints.restore(which, state_after(0, seed=1))
    assert int(state.step) == STEPS_PER_EPOCH * len(history)
    assert begun is None
    return len(history)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


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
    state, history = state_after(4, recipe), history_of(0.1, 1 / 3)
    with kept_in(tmp_path) as checkpoints:
        checkpoints.save(state, history)
    with kept_in(tmp_path) as checkpoints:
        fresh = state_after(0, recipe, seed=1)
        for which in ("last", "best"):
            back, kept_history, _ = checkpoints.restore(which, fresh)
            check_same(state, back)
            assert kept_history == history
            assert back.rng is fresh.rng  # which the settings say


@pytest.mark.parametrize(("kept_on", "wanted_on"), [(1, 2), (2, 1)])
def test_a_state_comes_back_on_another_number_of_devices(tmp_path, kept_on, wanted_on):
    kept, wanted = (on(mesh_for(n), state_after(steps)) for n, steps in ((kept_on, 2), (wanted_on, 0)))
    with kept_in(tmp_path) as checkpoints:
        checkpoints.save(kept, history_of(0.1))
        checkpoints.wait()
        back, *_ = checkpoints.restore("last", wanted)
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
    with kept_in(tmp_path) as checkpoints:
        checkpoints.save(state, history_of(0.5))
        forget({name: getattr(state, name) for name in ("params", "average")})
        checkpoints.wait()
        back, *_ = checkpoints.restore("last", state_after(0))
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


@pytest.mark.parametrize(
    ("val_acc", "epochs"),
    (
        ((0.5, 0.6, 0.4, 0.3, 0.2), {2, 4, 5}),
        ((0.5, 0.6, 0.7, 0.3, 0.8), {3, 4, 5}),  # the third is the best by the history of the fourth
        ((0.5, 0.6, 0.7), {2, 3}),
        ((0.9, 0.6, 0.7, 0.91), {1, 3, 4}),
    ),
    ids=str,
)
def test_the_two_newest_are_kept_and_the_best_epoch_of_each(tmp_path, val_acc, epochs):
    save_all(tmp_path, *val_acc)
    assert names_in(tmp_path) == {str(STEPS_PER_EPOCH * epoch) for epoch in epochs}


def test_the_newest_is_named_by_its_step_as_a_number(tmp_path):
    for step in (9, 10):
        (tmp_path / str(step)).mkdir()
    with kept_in(tmp_path) as checkpoints:
        assert checkpoints.newest() == tmp_path / "10"


def test_there_is_none_before_the_first(tmp_path):
    with kept_in(tmp_path / "missing") as checkpoints:
        assert checkpoints.newest() is None


def test_saving_an_epoch_again_changes_nothing(tmp_path):
    save_all(tmp_path, 0.5, 0.6)
    with kept_in(tmp_path) as checkpoints:
        checkpoints.save(state_after(4), history_of(0.5, 0.6))
        checkpoints.save(state_after(4), history_of(0.5, 0.6))
    assert (epoch_of(tmp_path, "last"), epoch_of(tmp_path, "best")) == (2, 2)


def test_what_is_newer_is_never_deleted(tmp_path):
    save_all(tmp_path, 0.5, 0.6, 0.7, 0.8)
    with kept_in(tmp_path) as checkpoints:
        checkpoints.save(state_after(4), history_of(0.5, 0.6))
    assert names_in(tmp_path) >= {"4", "6", "8"}


BEGUN = Begun(Metrics(jnp.array([1 / 3, 0.1], jnp.float32), jnp.array([0.5, 0.7], jnp.bfloat16)), 1.5)


def test_an_epoch_under_way_comes_back_to_the_bit(tmp_path):
    with kept_in(tmp_path) as checkpoints:
        checkpoints.save(state_after(3), history_of(0.5), BEGUN)
        checkpoints.wait()
        state, history, begun = checkpoints.restore("last", state_after(0))
    assert (int(state.step), history, begun.seconds) == (3, history_of(0.5), 1.5)
    jax.tree.map(same, begun.metrics, BEGUN.metrics)


def test_an_epoch_under_way_is_not_the_best(tmp_path):
    save_all(tmp_path, 0.5)
    with kept_in(tmp_path) as checkpoints:
        checkpoints.save(state_after(3), history_of(0.5), BEGUN)
    assert epoch_of(tmp_path, "best") == 1


def test_before_the_first_epoch_ends_there_is_no_best(tmp_path):
    with kept_in(tmp_path) as checkpoints:
        checkpoints.save(state_after(1), [], BEGUN)
    with pytest.raises(CheckpointError, match="no epoch has ended yet in"):
        epoch_of(tmp_path, "best")


def test_orbax_reads_the_state_without_this_package(tmp_path):
    save_all(tmp_path, 0.5)
    tree = StandardCheckpointer().restore(tmp_path / "2/state")
    jax.tree.map(same, tree["params"], jax.tree.map(np.asarray, state_after(2).params))
    assert tree["step"] == 2


def test_what_a_killed_save_left_behind_is_no_checkpoint(tmp_path):
    save_all(tmp_path, 0.5)
    shutil.copytree(tmp_path / "2", tmp_path / "part")
    shutil.copytree(tmp_path / "2", tmp_path / "part/state.orbax-checkpoint-tmp")
    assert (epoch_of(tmp_path, "last"), epoch_of(tmp_path, "best")) == (1, 1)
    save_all(tmp_path, 0.5, 0.6)
    assert (epoch_of(tmp_path, "last"), epoch_of(tmp_path, "best")) == (2, 2)
    assert names_in(tmp_path) == {"2", "4"}


def test_what_goes_wrong_while_writing_is_raised_by_the_next_call(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync_all", full)
    with kept_in(tmp_path) as checkpoints:
        checkpoints.save(state_after(2), history_of(0.5))
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(state_after(4), history_of(0.5, 0.6))
    with pytest.raises(OSError, match="No space left"), kept_in(tmp_path) as checkpoints:
        checkpoints.save(state_after(2), history_of(0.5))


SEED = dataclasses.replace(SETTINGS, seed=4)
HEADS = dataclasses.replace(SETTINGS, config=SETTINGS.config.replace(num_heads=1))
LONGER = dataclasses.replace(SETTINGS, recipe=SETTINGS.recipe.replace(epochs=SETTINGS.recipe.epochs + 1))


@pytest.mark.parametrize(
    ("other", "named"),
    (
        (SEED, r"seed was 3, not 4"),
        (HEADS, r"config\.num_heads was \d+, not 1"),
        (LONGER, r"recipe\.epochs was 300, not 301"),
    ),
    ids=("seed", "heads", "epochs"),
)
@pytest.mark.parametrize("which", ("last", "best"))
def test_a_checkpoint_of_other_settings_is_refused_and_the_field_named(tmp_path, other, named, which):
    save_all(tmp_path, 0.5)
    with (
        kept_in(tmp_path, other) as checkpoints,
        pytest.raises(CheckpointError, match=f"/2 was trained with other settings than run.json has: {named}$"),
    ):
        checkpoints.restore(which, state_after(0))


def test_a_checkpoint_of_a_run_that_was_extended_since_is_its_own(tmp_path):
    save_all(tmp_path, 0.5)
    with kept_in(tmp_path, LONGER, planned=(300,)) as checkpoints:
        assert len(checkpoints.restore("last", state_after(0)).history) == 1


def test_checkpoints_of_an_earlier_version_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "last/7").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="is of an earlier version"):
        epoch_of(tmp_path, "last")


@pytest.mark.parametrize("which", ("last", "best"))
def test_no_checkpoint_yet_is_an_error_that_names_the_folder(tmp_path, which):
    with (
        kept_in(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=rf"^{re.escape(str(tmp_path))} has no"),
    ):
        checkpoints.restore(which, state_after(0))
