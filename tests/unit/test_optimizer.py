"""The optimizer is the published formula, on a schedule without a step too many or too few."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from conformance.tolerances import FLOAT64
from vit_flax import optimizer
from vit_flax.config import PRESETS, preset
from vit_flax.model import ViT
from vit_flax.recipe import recipe

STEPS = 10  # an epoch
RATE = 0.5
COSINE = recipe("article").replace(epochs=10, learning_rate=RATE, schedule="cosine", warmup_epochs=2.0)
CONSTANT = COSINE.replace(schedule="constant")
# Of 100 steps, 20 to warm up: learning rate by step.
SCHEDULES = {
    "cosine": (COSINE, {0: 0, 1: RATE / 20, 10: RATE / 2, 19: RATE * 19 / 20, 20: RATE, 40: RATE * (0.5 + 0.5**1.5)}),
    "cosine, later": (COSINE, {60: RATE / 2, 80: RATE * (0.5 - 0.5**1.5), 99: RATE * np.sin(np.pi / 160) ** 2, 100: 0}),
    "cosine at once": (COSINE.replace(warmup_epochs=0.0), {0: RATE, 50: RATE / 2, 100: 0}),
    "constant": (CONSTANT, {0: 0, 10: RATE / 2, 20: RATE, 60: RATE, 99: RATE}),
    "constant at once": (CONSTANT.replace(warmup_epochs=0.0), {0: RATE, 1: RATE, 99: RATE}),
    "all but warm-up": (COSINE.replace(epochs=1, warmup_epochs=0.96), {0: 0, 5: RATE / 2, 9: RATE * 9 / 10}),
    "half an epoch": (CONSTANT.replace(warmup_epochs=0.5), {0: 0, 4: RATE * 4 / 5, 5: RATE, 99: RATE}),
}
ADAM = recipe("article").replace(learning_rate=0.01)
ADAMW = ADAM.replace(optimizer="adamw", weight_decay=0.1)
SGD = ADAM.replace(optimizer="sgd")
CLIPPED = ADAM.replace(clip_norm=1.0)
RNG = np.random.default_rng(0)
PARAMS = {"dense": {"kernel": RNG.standard_normal((3, 2)), "bias": RNG.standard_normal(2)}}
GRADS = [{"dense": {"kernel": RNG.standard_normal((3, 2)), "bias": RNG.standard_normal(2)}} for _ in range(3)]


def largest_difference(a, b):
    return max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def after(rules, params=PARAMS, grads=GRADS):
    """The parameters after a step for each of the gradients, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        state = rules.init(params)
        for gradient in grads:
            updates, state = rules.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return jax.tree.map(np.asarray, params)


def formula(recipe, params=PARAMS, grads=GRADS, b1=0.9, b2=0.999, eps=1e-8):
    """Adam (arXiv:1412.6980, algorithm 1), with decoupled decay of kernels (arXiv:1711.05101, algorithm 2); or SGD."""
    params = flatten_dict(params)
    for name, value in params.items():
        m = v = 0
        for t, gradient in enumerate((flatten_dict(gradient)[name] for gradient in grads), start=1):
            if recipe.optimizer == "sgd":
                m = b1 * m + gradient
                value = value - recipe.learning_rate * m
                continue
            m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
            step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
            decay = recipe.weight_decay if name[-1] == "kernel" else 0
            value = value - recipe.learning_rate * (step + decay * value)
        params[name] = value
    return {"dense": {name[-1]: value for name, value in params.items()}}


def check_schedule(schedule, expected):
    with jax.enable_x64(True):
        rates = {step: float(schedule(step)) for step in expected}
    assert max(abs(rates[step] - expected[step]) for step in expected) <= FLOAT64 * RATE


def check_update(rules, recipe):
    assert largest_difference(after(rules), formula(recipe)) <= FLOAT64


def check_decayed(decayed, params):
    names = {name for name, is_decayed in flatten_dict(decayed(params)).items() if is_decayed}
    assert names == {name for name in flatten_dict(params) if name[-1] == "kernel"}


def params_of(name):
    config = preset(name).replace(num_layers=1)
    images = jax.ShapeDtypeStruct((1, *config.image_size, config.channels), jnp.float32)
    return jax.eval_shape(ViT(config).init, jax.random.key(0), images)["params"]


@pytest.mark.parametrize(("recipe", "expected"), SCHEDULES.values(), ids=SCHEDULES)
def test_the_learning_rate_of_each_step(recipe, expected):
    check_schedule(optimizer.schedule(recipe, STEPS), expected)


@pytest.mark.parametrize("late", (-1, 1))
@pytest.mark.parametrize("name", ("cosine", "cosine, later", "cosine at once", "constant", "half an epoch"))
def test_a_schedule_off_by_one_would_be_found(name, late):
    recipe, expected = SCHEDULES[name]
    schedule = optimizer.schedule(recipe, STEPS)
    with pytest.raises(AssertionError):
        check_schedule(lambda step: schedule(max(step + late, 0)), expected)


def test_the_learning_rate_counts_steps_of_the_optimizer():
    rules = optimizer.optimizer(CONSTANT, STEPS)
    first = after(rules, grads=GRADS[:1])
    assert largest_difference(first, PARAMS) == 0  # warming up from zero
    assert largest_difference(after(rules, grads=GRADS[:2]), first) > 0


@pytest.mark.parametrize("name", PRESETS)
def test_kernels_decay_and_nothing_else_does(name):
    check_decayed(optimizer.decayed, params_of(name))


def test_what_does_not_decay_is_biases_norms_and_tokens():
    flat = flatten_dict(params_of("article"))
    decayed = flatten_dict(optimizer.decayed(params_of("article")))
    assert {name[-1] for name in flat if not decayed[name]} == {"bias", "scale", "cls_token", "position_embedding"}


@pytest.mark.parametrize(
    "wrong",
    (
        lambda params: jax.tree.map(lambda _: True, params),
        lambda params: jax.tree.map(lambda _: False, params),
        lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),  # which takes the class token for a kernel
    ),
    ids=("all", "none", "by shape"),
)
def test_another_choice_of_what_decays_would_be_found(wrong):
    with pytest.raises(AssertionError):
        check_decayed(wrong, params_of("article"))


@pytest.mark.parametrize("recipe", (ADAM, ADAMW, SGD), ids=("Adam", "AdamW", "SGD"))
def test_an_update_is_the_formula(recipe):
    check_update(optimizer.optimizer(recipe, STEPS), recipe)


WRONG = {
    "decay of biases": (optax.adamw(0.01, weight_decay=0.1), ADAMW),
    "no decay": (optax.adam(0.01), ADAMW),
    "decay through the gradient": (
        optax.chain(optax.add_decayed_weights(0.1, optimizer.decayed), optax.adam(0.01)),
        ADAMW,
    ),
    "another eps": (optax.adam(0.01, eps=1e-7), ADAM),
    "another b2": (optax.adam(0.01, b2=0.99), ADAM),
    "Nesterov": (optax.sgd(0.01, momentum=0.9, nesterov=True), SGD),
    "dampening": (optax.chain(optax.ema(0.9, debias=False), optax.sgd(0.01)), SGD),
    "clipping": (optimizer.optimizer(CLIPPED, STEPS), ADAM),
}


@pytest.mark.parametrize(("rules", "recipe"), WRONG.values(), ids=WRONG)
def test_another_update_would_be_found(rules, recipe):
    with pytest.raises(AssertionError):
        check_update(rules, recipe)


def norm(tree):
    return np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: leaf * factor, tree)


def check_clipping(rules, scale):
    grads = [scaled(gradient, scale) for gradient in GRADS]
    clipped = [scaled(gradient, 1 / max(norm(gradient), 1)) for gradient in grads]
    assert max(map(norm, clipped)) <= 1 + FLOAT64
    assert largest_difference(after(rules, grads=grads), formula(CLIPPED, grads=clipped)) <= FLOAT64


@pytest.mark.parametrize("scale", (0.01, 1.0, 1000.0))
def test_clipping_bounds_the_norm_of_the_whole_gradient_and_keeps_its_direction(scale):
    check_clipping(optimizer.optimizer(CLIPPED, STEPS), scale)


@pytest.mark.parametrize(
    "wrong",
    (
        optax.adam(0.01),
        optax.chain(optax.clip(1.0), optax.adam(0.01)),
        optax.chain(optax.adam(0.01), optax.clip_by_global_norm(0.001)),
        optax.chain(optax.clip_by_global_norm(2.0), optax.adam(0.01)),
    ),
    ids=("none", "of each number", "of the update", "at another norm"),
)
def test_another_clipping_would_be_found(wrong):
    with pytest.raises(AssertionError):
        check_clipping(wrong, 1.0)


def test_equal_arguments_give_the_same_object():
    again = ADAM.replace(learning_rate=ADAM.learning_rate)
    assert again is not ADAM
    assert optimizer.optimizer(again, STEPS) is optimizer.optimizer(ADAM, STEPS)
    assert optimizer.optimizer(ADAMW, STEPS) is not optimizer.optimizer(ADAM, STEPS)
    assert optimizer.optimizer(ADAM, STEPS + 1) is not optimizer.optimizer(ADAM, STEPS)
