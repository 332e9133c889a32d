"""The optimizer of a recipe: clipping, Adam or AdamW, and the schedule of the learning rate, in optax."""

import functools
from typing import Any

import jax
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
    if not warmup:
        return after
    rise = optax.linear_schedule(0.0, recipe.learning_rate, transition_steps=warmup)
    return optax.join_schedules([rise, after], boundaries=[warmup])


def decayed(params: Any) -> Any:
    """True for what weight decay applies to: kernels, but not biases, norms, the class token and positions."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


@functools.cache  # one object a recipe, so that a second run compiles nothing again
def optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """`optax.adam` as the article has it; AdamW (arXiv:1711.05101) and clipping where the recipe asks for them."""
    rate = schedule(recipe, steps_per_epoch)
    rules = [] if recipe.clip_norm is None else [optax.clip_by_global_norm(recipe.clip_norm)]
    if recipe.weight_decay:
        rules.append(optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=recipe.weight_decay, mask=decayed))
    else:
        rules.append(optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8))
    return optax.chain(*rules)
