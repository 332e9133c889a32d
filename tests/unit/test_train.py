"""Training is the same bits however it is cut into calls and sittings, and what it reports is exact."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conformance.tolerances import FLOAT64
from vit_flax import loop, train
from vit_flax.config import preset
from vit_flax.data import Data, Dataset
from vit_flax.loop import Diverged, train_model
from vit_flax.recipe import recipe
from vit_flax.train import Batch, Metrics, create_train_state, eval_model, initialize_model

SIZES = dict(patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)
WHOLE = dict(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
PLAIN = recipe("article").replace(batch_size=4, means=(0.3,), stds=(0.4,), flip=False, **WHOLE)
# What a state has to remember most for: moments, the schedule's step, dropout, a running average.
FULL = PLAIN.replace(
    epochs=10, optimizer="adamw", learning_rate=1e-2, schedule="cosine", warmup_epochs=0.5, weight_decay=0.05,
    clip_norm=1.0, label_smoothing=0.1, ema_decay=0.9998, flip=True, dropout=0.1, compute_dtype="bfloat16",
)  # fmt: skip
CONFIG = FULL.regularised(preset("digits").replace(**SIZES))
STEPS = 6  # an epoch of 26 images: two are left over
KEPT = ("step", "params", "opt_state", "average")
DETERMINED = ("epoch", "train/loss", "train/acc", "val/acc")


pytestmark = pytest.mark.usefixtures("quickly_compiled")


def easy(n, seed):
    """One bright row, which says the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n).astype(np.int32)
    images = rng.integers(0, 64, (n, 8, 8, 1), dtype=np.uint8)
    images[np.arange(n), 3 * labels] = 255
    return Dataset(images, labels)


DATA = Data(easy(26, 0), easy(10, 1), easy(7, 2), ("top", "middle", "bottom"), "bright rows")
initialized = functools.cache(initialize_model)


def copied(tree):
    """Training consumes what it is given."""
    return jax.tree.map(jnp.copy, tree)


def fresh(recipe, seed=0):
    model, params, rng = initialized(CONFIG, seed)
    return create_train_state(model, *copied((params, rng)), recipe, STEPS)


def linear(variables, images, train, rngs=None):
    """A model that compiles quickly: pixels times a kernel, a fifth of the pixels dropped in training."""
    x = images.reshape(len(images), -1)
    if train:
        x = x * jax.random.bernoulli(rngs["dropout"], 0.8, x.shape)
    return x @ variables["params"]["kernel"]


def linear_state(recipe=PLAIN, apply=linear, seed=0):
    kernel = np.random.default_rng(seed).standard_normal((64, 3)).astype(np.float32)
    model = SimpleNamespace(apply=apply, config=CONFIG)
    return create_train_state(model, {"kernel": jnp.asarray(kernel)}, jax.random.key(seed), recipe, STEPS)


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


def check_same(state, other):
    """To the bit, all that changes while training."""
    jax.tree.map(same, *({name: getattr(s, name) for name in KEPT} | {"step": int(s.step)} for s in (state, other)))


# A model, and its randomness.


def test_a_seed_says_the_parameters_and_all_later_randomness():
    _, params, rng = initialized(CONFIG, 0)
    _, again, rng_again = initialize_model(CONFIG, 0)
    _, other, other_rng = initialized(CONFIG, 1)
    jax.tree.map(same, params, again)
    assert (params["head"]["kernel"] != other["head"]["kernel"]).all()
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    keys = [jax.random.key_data(key).tolist() for key in (rng, rng_again, other_rng, jax.random.key(0))]
    assert keys[0] == keys[1]
    assert keys[2] != keys[0] != keys[3]


def keys_of(seed):
    """The keys of every use of randomness in two epochs of training, by what they are for."""
    seen = {"order": [], "input": [], "dropout": []}

    def see(name, key):
        jax.debug.callback(lambda data: seen[name].append(tuple(data.tolist())), jax.random.key_data(key))

    def prepare(rng, picked, state):
        see("input", rng)
        return Batch(picked.images / 255, jax.nn.one_hot(picked.labels, 3))

    def apply(variables, images, train, rngs):
        see("dropout", rngs["dropout"])
        return linear(variables, images, train=False)

    def permutation(key, n):
        see("order", key)
        return np.arange(n)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "prepare", prepare)
        patch.setattr(jax.random, "permutation", permutation)
        state = linear_state(apply=apply, seed=seed)
        for epoch in (1, 2):
            state, _ = loop.train_epoch(state, DATA.train, epoch)
    jax.effects_barrier()
    return {name: sorted(keys) for name, keys in seen.items()}


def check_keys():
    seen = keys_of(seed=0)
    keys = [key for kind in seen.values() for key in kind]
    assert [len(kind) for kind in seen.values()] == [2, 2 * STEPS, 2 * STEPS]
    assert len(set(keys)) == len(keys)
    return seen


def test_every_use_of_randomness_has_a_key_of_its_own_that_the_seed_says():
    seen = check_keys()
    assert keys_of(seed=0) == seen
    for name, keys in keys_of(seed=1).items():
        assert not set(keys) & set(seen[name])


@pytest.mark.parametrize(
    ("what", "name", "wrong"),
    (
        (jax.random, "fold_in", lambda key, number: key),
        (train.TrainState, "stream", lambda state, name: state.rng),
        (train.TrainState, "stream", lambda state, name: jax.random.key(name == "order")),
    ),
    ids=("the same in every step", "one stream", "dropout as input"),
)
def test_a_key_that_is_used_twice_would_be_found(monkeypatch, what, name, wrong):
    monkeypatch.setattr(what, name, wrong)
    with pytest.raises(AssertionError):
        check_keys()


# The input.

FIRST = Dataset(*(part[:8] for part in DATA.train))
CHOICES = {
    "flip": True,
    "crop_scale": (0.3, 0.5),
    "crop_ratio": (1.5, 1.6),
    "trivial_augment": True,
    "erasing": 1.0,
    "mixup": 1.0,
    "cutmix": 1.0,
}


@jax.jit
def prepared(state):
    return train.prepare(jax.random.key(1), FIRST, state)


def test_an_input_of_which_nothing_is_asked_is_the_data():
    images, targets = prepared(linear_state(PLAIN.replace(means=(0.5,), stds=(0.25,))))
    same(images, (FIRST.images.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.25))
    same(targets, np.eye(3, dtype=np.float32)[FIRST.labels])


@pytest.mark.parametrize("field", CHOICES)
def test_no_choice_about_the_input_is_ignored(field):
    plain, chosen = (prepared(linear_state(recipe)) for recipe in (PLAIN, PLAIN.replace(**{field: CHOICES[field]})))
    assert chosen.images.shape == plain.images.shape
    assert (chosen.images != plain.images).any()
    assert (chosen.targets != plain.targets).any() == (field in ("mixup", "cutmix"))


def test_labels_are_smoothed_as_the_recipe_says():
    _, targets = prepared(linear_state(PLAIN.replace(label_smoothing=0.75)))
    same(targets, np.eye(3, dtype=np.float32)[FIRST.labels] * np.float32(0.25) + np.float32(0.25))


# A step.

PIXELS = FIRST.images[:4].reshape(4, 64) / 255
TARGETS = np.eye(3)[FIRST.labels[:4]]
RATE, DECAY = 0.5, 0.25


def descent(kernel, steps):
    """Gradient descent on the softmax regression, its running average, and losses and accuracies, by hand."""
    average, losses, accuracies = kernel, [], []
    for step in range(1, steps + 1):
        odds = np.exp(PIXELS @ kernel)
        softmax = odds / odds.sum(axis=1, keepdims=True)
        losses.append(-np.log((softmax * TARGETS).sum(axis=1)).mean())
        accuracies.append((softmax.argmax(axis=1) == TARGETS.argmax(axis=1)).mean())
        kernel = kernel - RATE * PIXELS.T @ (softmax - TARGETS) / len(PIXELS)
        decay = min(DECAY, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * kernel
    return kernel, average, losses, accuracies


def without_dropout(variables, images, train, rngs):
    return linear(variables, images, train=False)


def check_step(step, steps=4):
    """In float64, against the formulas."""
    with jax.enable_x64(True):
        state = linear_state(PLAIN.replace(ema_decay=DECAY), without_dropout)
        params, rules = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state.params), optax.sgd(RATE)
        state = state.replace(step=0, params=params, average=params, tx=rules, opt_state=rules.init(params))
        state = state.replace(recipe=SimpleNamespace(compute_dtype=jnp.float64, ema_decay=DECAY))
        metrics = []
        for _ in range(steps):
            state, heard = step(state, Batch(jnp.asarray(PIXELS.reshape(4, 8, 8, 1)), jnp.asarray(TARGETS)))
            metrics.append(heard)
    kernel, average, losses, accuracies = descent(np.asarray(params["kernel"]), steps)
    ours = (state.params["kernel"], state.average["kernel"], [float(heard.loss) for heard in metrics])
    for value, expected in zip(ours, (kernel, average, losses), strict=True):
        assert np.abs(np.asarray(value) - expected).max() <= FLOAT64 * np.abs(expected).max()
    assert [float(heard.accuracy) for heard in metrics] == accuracies
    assert int(state.step) == steps


def late(state, batch):
    after, metrics = train.train_step(state, batch)
    return after.replace(average=train._averaged(after.replace(params=state.params, average=state.average))), metrics


def plain(state, batch):
    after, metrics = train.train_step(state, batch)
    mean = jax.tree.map(lambda old, new: DECAY * old + (1 - DECAY) * new, state.average, after.params)
    return after.replace(average=mean), metrics


def of_new_parameters(state, batch):
    after, _ = train.train_step(state, batch)
    return after, train.train_step(after, batch)[1]


def test_a_step_is_the_gradient_through_the_optimizer_and_into_the_average():
    check_step(train.train_step)


@pytest.mark.parametrize("wrong", (late, plain, of_new_parameters))
def test_another_step_would_be_found(wrong):
    with pytest.raises(AssertionError):
        check_step(wrong)


def test_a_step_keeps_no_average_where_the_recipe_has_none():
    state, _ = jax.eval_shape(train.train_step, linear_state(), Batch(jnp.zeros((4, 8, 8, 1)), jnp.asarray(TARGETS)))
    assert state.average is None
    assert state.eval_params is state.params


def check_dtypes(step, compute_dtype):
    seen = set()

    def spy(variables, images, train, rngs=None):
        seen.update(leaf.dtype for leaf in jax.tree.leaves((variables, images)))
        return linear(variables, images, train=False)

    state = linear_state(PLAIN.replace(compute_dtype=compute_dtype, ema_decay=0.5), spy)
    after, metrics = jax.eval_shape(step, state, Batch(jnp.zeros((4, 8, 8, 1)), jnp.asarray(TARGETS)))
    assert seen == {jnp.dtype(compute_dtype)}
    seen.clear()
    jax.eval_shape(train.eval_step, state, FIRST.images)
    assert seen == {jnp.dtype("float32")}
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((after.params, after.average, after.opt_state, metrics))}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}  # int32: the optimizer's count of steps


@pytest.mark.parametrize("compute_dtype", ("float32", "bfloat16"))
def test_a_step_computes_in_its_dtype_and_remembers_in_float32(compute_dtype):
    check_dtypes(train.train_step, compute_dtype)


def narrowed(state, batch):
    after, metrics = train.train_step(state, batch)
    return after.replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), after.params)), metrics


@pytest.mark.parametrize(
    ("wrong", "compute_dtype"),
    (
        (narrowed, "bfloat16"),
        (lambda state, batch: train.train_step(state.replace(recipe=PLAIN.replace(ema_decay=0.5)), batch), "bfloat16"),
    ),
    ids=("narrow parameters", "wide activations"),
)
def test_a_step_in_another_dtype_would_be_found(wrong, compute_dtype):
    with pytest.raises(AssertionError):
        check_dtypes(wrong, compute_dtype)


# An epoch.


def check_rows(rows_of, n):
    states = [SimpleNamespace(recipe=PLAIN, stream=linear_state(seed=seed).stream) for seed in (0, 0, 1)]
    rows, again, other = (rows_of(state, 1, n) for state in states)
    assert rows.shape == (n // 4, 4)
    assert len(set(rows.flat)) == rows.size
    assert set(rows.flat) <= set(range(n))
    assert (np.diff(rows.ravel()) < 0).any()  # shuffled
    same(rows, again)
    assert (rows != other).any()
    assert (rows != rows_of(states[0], 2, n)).any()
    epochs = [set(rows_of(states[0], epoch, n).flat) for epoch in range(20)]
    assert set.union(*epochs) == set(range(n))  # it is not always the same that are left over


@pytest.mark.parametrize("n", (24, 26, 27))
def test_an_epoch_is_every_image_once_but_for_the_last_incomplete_batch(n):
    check_rows(train.epoch_rows, n)


WRONG_ROWS = {
    "not shuffled": lambda state, epoch, n: np.arange(n // 4 * 4).reshape(-1, 4),
    "the same in all epochs": lambda state, epoch, n: train.epoch_rows(state, 1, n),
    "the same for all seeds": lambda state, epoch, n: train.epoch_rows(linear_state(), epoch, n),
    "with repeats": lambda state, epoch, n: np.random.default_rng(epoch).integers(0, n, (n // 4, 4)),
    "an incomplete batch filled up": lambda state, epoch, n: np.resize(np.arange(n)[::-1], (-(-n // 4), 4)),
    "the last always left over": lambda state, epoch, n: train.epoch_rows(state, epoch, n // 4 * 4),
}


@pytest.mark.parametrize("wrong", WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_another_order_would_be_found(wrong):
    with pytest.raises(AssertionError):
        check_rows(wrong, 26)


@pytest.mark.parametrize("n", (0, 3))
def test_too_few_images_for_a_batch_is_an_error_that_names_both_numbers(n):
    with pytest.raises(ValueError, match=f"^{n} training images are not enough for a batch of 4$"):
        train.epoch_rows(linear_state(), 1, n)


@pytest.mark.parametrize(
    ("steps", "per_call"), ((1, 1), (7, 7), (10, 10), (11, 1), (20, 10), (26, 2), (351, 9), (358, 2))
)
def test_calls_are_alike_and_as_long_as_they_may_be(steps, per_call):
    assert loop._per_call(steps) == per_call


LOSSES = [1.0, 0.5, 4.5, 0.25, 2.0, 0.75]


@pytest.fixture
def told(monkeypatch):
    """What happens, in order, where each step's loss is the one that is set here, and its accuracy a quarter of it."""
    told = SimpleNamespace(events=[], losses=LOSSES)

    def train_steps(state, dataset, rows):
        done = len(rows) * told.events.count("call")
        told.events.append("call")
        losses = jnp.asarray(told.losses[done : done + len(rows)])
        return state.replace(step=state.step + len(rows)), Metrics(losses, losses / 4)

    monkeypatch.setattr(train, "train_steps", train_steps)
    return told


@pytest.mark.parametrize("per_call", (1, 2, 3, 6))
def test_progress_hears_of_every_image_once_and_metrics_are_means_over_all_steps(told, monkeypatch, per_call):
    monkeypatch.setattr(train, "STEPS_PER_CALL", per_call)
    heard = []
    _, metrics = loop.train_epoch(linear_state(), DATA.train, 1, lambda *progress: heard.append(progress))
    assert heard == [(4 * per_call, np.mean(part)) for part in np.reshape(LOSSES, (-1, per_call))]
    assert metrics == (1.5, 0.375)


def test_progress_is_a_call_late_so_that_the_device_never_waits(told, monkeypatch):
    monkeypatch.setattr(train, "STEPS_PER_CALL", 2)
    loop.train_epoch(linear_state(), DATA.train, 1, lambda *_: told.events.append("progress"))
    assert told.events == ["call", "call", "progress", "call", "progress", "progress"]


@pytest.mark.parametrize("per_call", (1, 2, 3, 6))
@pytest.mark.parametrize("bad", range(STEPS))
@pytest.mark.parametrize(("before", "value"), ((0, float("nan")), (12, float("inf"))))
def test_the_first_step_whose_loss_is_not_finite_is_named(told, monkeypatch, per_call, bad, before, value):
    monkeypatch.setattr(train, "STEPS_PER_CALL", per_call)
    told.losses = LOSSES[:bad] + [value] * (STEPS - bad)
    with pytest.raises(Diverged, match=f"^the loss is not finite at step {before + bad + 1}$") as error:
        loop.train_epoch(linear_state().replace(step=before), DATA.train, 1)
    assert error.value.step == before + bad + 1
    assert told.events.count("call") <= bad // per_call + 2  # at once, but for the call that was under way


def poisoned(variables, images, train, rngs):
    poison = jnp.where(images.min(axis=(1, 2, 3)) > 1, jnp.nan, 0.0)
    return linear(variables, images, train=False) + poison[:, None]


@pytest.mark.parametrize("image", (0, 7, 20))
def test_one_image_that_breaks_the_loss_is_traced_to_its_step(monkeypatch, image):
    monkeypatch.setattr(train, "STEPS_PER_CALL", 2)
    images = DATA.train.images.copy()
    images[image] = 255
    state = linear_state(apply=poisoned)
    steps, _ = np.nonzero(train.epoch_rows(state, 1, 26) == image)
    with pytest.raises(Diverged, match=f"at step {steps[0] + 1}$"):
        loop.train_epoch(state, DATA.train._replace(images=images), 1)


def test_an_epoch_is_the_same_bits_however_it_is_cut_into_calls(monkeypatch):
    whole, metrics = loop.train_epoch(fresh(FULL), DATA.train, 1)
    monkeypatch.setattr(train, "STEPS_PER_CALL", 1)
    cut, cut_metrics = loop.train_epoch(fresh(FULL), DATA.train, 1)
    check_same(whole, cut)
    assert metrics == cut_metrics


def test_rows_in_another_order_would_be_found():
    rows = train.epoch_rows(linear_state(), 1, 26)
    (one, _), (other, _) = (train.train_steps(linear_state(), DATA.train, r) for r in (rows, rows[[1, 0, 2, 3, 4, 5]]))
    with pytest.raises(AssertionError):
        check_same(one, other)


# Evaluation.


def check_eval(evaluate):
    """An exact share, on datasets that fill their last batch and that do not, with the averaged parameters."""
    state = linear_state(PLAIN.replace(ema_decay=0.9))
    state = state.replace(params=linear_state(seed=1).params)
    kernel = np.asarray(state.average["kernel"], np.float64)
    for n in (3, 8, 10):
        images = np.random.default_rng(n).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
        answers = [int(((image.ravel() / 255 - PLAIN.means[0]) / PLAIN.stds[0] @ kernel).argmax()) for image in images]
        labels = np.array([(answer + i) % 3 for i, answer in enumerate(answers)], np.int32)  # every third is right
        assert evaluate(state, Dataset(images, labels)) == -(-n // 3) / n


def filled(dataset):
    n = len(dataset.labels)
    rows = np.arange(-(-n // 4) * 4) % n
    return Dataset(dataset.images[rows], dataset.labels[rows])


WRONG_EVALS = {
    "padding counted": lambda state, d: eval_model(state, filled(d)) * len(filled(d).labels) / len(d.labels),
    "padding counted above and below": lambda state, d: eval_model(state, filled(d)),
    "the last batch left out": lambda state, d: eval_model(
        state, Dataset(*(part[: len(part) // 4 * 4 or None] for part in d))
    ),
    "parameters that are not averaged": lambda state, d: eval_model(state.replace(average=None), d),
    "of another normalisation": lambda state, d: eval_model(state.replace(recipe=PLAIN.replace(means=(0.9,))), d),
}


def test_evaluation_is_an_exact_share_of_all_images_and_no_padding():
    check_eval(eval_model)


@pytest.mark.parametrize("wrong", WRONG_EVALS.values(), ids=WRONG_EVALS)
def test_another_evaluation_would_be_found(wrong):
    with pytest.raises(AssertionError):
        check_eval(wrong)


# A run.


def run(state, history=None):
    """The state and history after each epoch, from the given ones on."""
    after = []

    def keep(state, history, _):
        after.append((copied(state), [dict(record) for record in history]))

    state, history = train_model(copied(state), DATA, history, keep)
    check_same(state, after[-1][0])
    assert history == after[-1][1]
    return after


@pytest.fixture(scope="module")
def straight():
    return run(fresh(FULL))


def determined(history):
    return [{name: record[name] for name in DETERMINED} for record in history]


def check_same_run(run, other):
    check_same(run[-1][0], other[-1][0])
    assert determined(run[-1][1]) == determined(other[-1][1])


def test_history_says_of_every_epoch_what_was_measured(straight):
    for epoch, (state, history) in enumerate(straight, start=1):
        assert [record["epoch"] for record in history] == list(range(1, epoch + 1))
        assert set(history[-1]) == {*DETERMINED, "seconds"}
        assert history[-1]["val/acc"] == eval_model(state, DATA.validation)
        assert history[-1]["seconds"] > 0
        assert int(state.step) == epoch * STEPS
    assert len(straight) == FULL.epochs


@pytest.mark.parametrize("epochs", (1, 5, 9))
def test_a_run_that_is_resumed_is_the_same_bits(straight, epochs):
    state, history = straight[epochs - 1]
    before = list(history)
    resumed = run(state, history)
    check_same_run(resumed, straight)
    assert resumed[-1][1][:epochs] == history == before  # to the second


def test_a_run_that_is_complete_stays_as_it_is(straight):
    state, history = straight[-1]
    again, same_history = train_model(state, DATA, history, keep=lambda *_: pytest.fail("trained on"))
    assert again is state
    assert same_history == history


LOST = {
    "step": lambda state: state.replace(step=jnp.zeros_like(state.step)),
    "moments": lambda state: state.replace(opt_state=state.tx.init(state.params)),
    "average": lambda state: state.replace(average=state.params),
    "dropout rng": lambda state: state.replace(rng=jax.random.key(7)),
    "one parameter": lambda state: state.replace(
        params=state.params | {"head": jax.tree.map(jnp.zeros_like, state.params["head"])}
    ),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_resuming_without_something_would_be_found(straight, lose):
    state, history = straight[0]
    with pytest.raises(AssertionError):
        check_same_run(run(lose(state), history), straight)


def test_a_seed_says_every_bit_of_a_run(straight):
    check_same_run(run(fresh(FULL)), straight)
    with pytest.raises(AssertionError):
        check_same_run(run(fresh(FULL, seed=1)), straight)


def test_the_same_model_in_another_order_is_another_run(straight):
    with pytest.raises(AssertionError):
        check_same_run(run(fresh(FULL).replace(rng=jax.random.key(7))), straight)


def check_learns(data):
    _, history = train_model(fresh(FULL), data)
    assert history[-1]["train/loss"] < history[0]["train/loss"] / 2
    assert history[-1]["val/acc"] == 1


def test_an_easy_task_is_learnt():
    check_learns(DATA)


def test_a_task_that_is_not_learnt_would_be_found():
    images, labels = DATA.train
    shuffled = Data(Dataset(images, labels[::-1].copy()), DATA.validation, DATA.test, DATA.classes, DATA.source)
    with pytest.raises(AssertionError):
        check_learns(shuffled)


def test_a_second_run_compiles_nothing_again():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    jax.jit(lambda x: x + 1)(1)
    assert compiled  # or this would show nothing
    for seed in (2, 3):
        compiled.clear()
        state = create_train_state(*initialize_model(CONFIG, seed), FULL, STEPS)
        train_model(state, DATA)
    assert compiled == []
