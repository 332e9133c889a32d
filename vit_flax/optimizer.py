"""The optimizer of a recipe: clipping, the rule, and the schedule of the learning rate, in optax."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_flax.recipe import Recipe


def schedule(recipe: Recipe, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up from zero, then constant or along half a cosine to zero."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    rest = max(recipe.epochs * steps_per_epoch - warmup, 1)  # optax wants one, even where the warm-up takes all
    if recipe.schedule == "constant":
        after = optax.constant_schedule(recipe.learning_rate)
    else:
        after = optax.cosine_decay_schedule(recipe.learning_rate, decay_steps=rest, alpha=0.0)
    rise = optax.linear_schedule(0.0, recipe.learning_rate, transition_steps=warmup)
    rate = optax.join_schedules([rise, after], boundaries=[warmup]) if warmup else after
    # optax counts in int32, and JAX divides those in float32 even where it has float64.
    return lambda step: rate(jnp.asarray(step, float))


def decayed(params: Any) -> Any:
    """True for what weight decay applies to: kernels, but not biases, norms, the class token and positions."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def clipping(recipe: Recipe) -> optax.GradientTransformation:
    """The whole gradient scaled down to the norm that the recipe allows: by clip_norm / norm, nothing added to it."""
    return optax.identity() if recipe.clip_norm is None else optax.clip_by_global_norm(recipe.clip_norm)


def rule(recipe: Recipe, rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """How the optimizer turns gradients into a step of the parameters, in optax."""
    r = recipe
    if r.optimizer == "sgd":
        return optax.sgd(rate, momentum=r.momentum, nesterov=False)
    if r.optimizer == "adam":
        return optax.adam(rate, b1=r.momentum, b2=r.beta2, eps=r.epsilon, eps_root=0.0)
    return optax.adamw(
        rate, b1=r.momentum, b2=r.beta2, eps=r.epsilon, eps_root=0.0, weight_decay=r.weight_decay, mask=decayed
    )


@functools.cache  # one object a recipe, so that a second run compiles nothing again
def optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """Clipping, then the rule at the schedule's rate."""
    return optax.chain(clipping(recipe), rule(recipe, schedule(recipe, steps_per_epoch)))
