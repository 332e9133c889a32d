"""Faults of clipping and of the schedule: around `clip(gradients, recipe)` and `rates(recipe)`."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from conformance.faults import Around, Fault, is_kernel, recipe_changed
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe

Arrays = dict[str, np.ndarray]
LEAST_RATE = 1e-6  # min_lr in MAE's fine-tuning


# Around `clip(gradients, recipe)`.


def scaled_to_norm(group: Callable[[str], str], epsilon: float = 0.0, dtype: type = np.float64) -> dict[str, Around]:
    """Each group of leaves scaled down to the norm allowed."""

    def around(method: Around, config: ViTConfig, gradients: Arrays, recipe: Recipe) -> Arrays:
        squares: dict[str, Any] = {}
        for name, g in gradients.items():
            squares[group(name)] = squares.get(group(name), dtype(0)) + (g.astype(dtype) ** 2).sum()
        allowed = dtype(recipe.clip_norm)
        norms = {name: np.sqrt(square) + dtype(epsilon) for name, square in squares.items()}
        scales = {name: allowed / max(norm, allowed) for name, norm in norms.items()}
        return {name: (g * scales[group(name)]).astype(g.dtype) for name, g in gradients.items()}

    return {"clip": around}


def in_blocks(name: str) -> str:
    """A layer, the patches, the embedding, the last norm or the head."""
    return "/".join(name.split("/")[: 2 if name.startswith("encoder") else 1])


def by_kernels(scaled: Callable[[str], bool]) -> dict[str, Around]:
    """The norm is that of the kernels alone, which must not be too long."""

    def around(method: Around, config: ViTConfig, gradients: Arrays, recipe: Recipe) -> Arrays:
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for name, g in gradients.items() if is_kernel(name)))
        scale = recipe.clip_norm / max(norm, recipe.clip_norm)
        return {name: (g * scale).astype(g.dtype) if scaled(name) else g for name, g in gradients.items()}

    return {"clip": around}


def by_value(method: Around, config: ViTConfig, gradients: Arrays, recipe: Recipe) -> Arrays:
    bound = recipe.clip_norm
    return {name: np.clip(g, -bound, bound) for name, g in gradients.items()}  # type: ignore[operator]


def always_to_norm(method: Around, config: ViTConfig, gradients: Arrays, recipe: Recipe) -> Arrays:
    """Short gradients are lengthened, too."""
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    return {name: (g * (recipe.clip_norm / norm)).astype(g.dtype) for name, g in gradients.items()}


# Around `rates(recipe)`.


def rates(change: Callable[[np.ndarray, Recipe], np.ndarray]) -> dict[str, Around]:
    return {"rates": lambda method, config, recipe: change(method(recipe), recipe)}


def step_early(found: np.ndarray, recipe: Recipe) -> np.ndarray:
    end = 0.0 if recipe.schedule == "cosine" else found[-1]
    return np.append(found[1:], end)


def rising(rise: Callable[[np.ndarray, int], np.ndarray]) -> dict[str, Around]:
    """Another warm-up: `rise(step, steps to warm up)`, as a share of the highest rate."""

    def change(found: np.ndarray, recipe: Recipe) -> np.ndarray:
        warmup = round(recipe.warmup_epochs)
        return np.concatenate([recipe.learning_rate * rise(np.arange(warmup), warmup), found[warmup:]])

    return rates(change)


def in_the_cosine(recipe: Recipe) -> np.ndarray:
    """Which of the steps are."""
    return (recipe.schedule == "cosine") & (np.arange(recipe.epochs) >= round(recipe.warmup_epochs))


def falling(share: Callable[[np.ndarray, Recipe], np.ndarray]) -> dict[str, Around]:
    """Another cosine: `share(step, recipe)` says how much of it has passed."""

    def change(found: np.ndarray, recipe: Recipe) -> np.ndarray:
        step = np.arange(recipe.epochs)
        cosine = recipe.learning_rate * (1 + np.cos(np.pi * share(step, recipe))) / 2
        return np.where(in_the_cosine(recipe), cosine, found)

    return rates(change)


def cosine_to_a_tenth(found: np.ndarray, recipe: Recipe) -> np.ndarray:
    return np.where(in_the_cosine(recipe), 0.9 * found + 0.1 * recipe.learning_rate, found)


def cosine_with_a_floor(found: np.ndarray, recipe: Recipe) -> np.ndarray:
    return np.where(in_the_cosine(recipe), np.maximum(found, LEAST_RATE), found)


of_clipping = partial(Fault, rung="clipping", place="too long: {leaf}")
of_schedule = partial(Fault, rung="schedule", place="cosine, 10 of 60 steps to warm up")

CLIPPING = (
    of_clipping(
        name="clipped by norm and epsilon",
        seen="torch.nn.utils.clip_grad_norm_ adds 1e-6",
        around=scaled_to_norm(lambda name: "all", epsilon=1e-6),
    ),
    of_clipping(
        name="clipped leaf by leaf",
        seen="a norm for each tensor",
        around=scaled_to_norm(lambda name: name),
    ),
    of_clipping(
        name="clipped block by block",
        seen="a norm for each group of parameters",
        around=scaled_to_norm(in_blocks),
    ),
    of_clipping(
        name="clipped by the kernels' norm",
        seen="a norm over the leaves that a mask meant for weight decay lets through",
        around=by_kernels(scaled=lambda name: True),
    ),
    of_clipping(
        name="kernels alone clipped",
        seen="optax.masked around clipping and decay alike",
        around=by_kernels(scaled=is_kernel),
    ),
    of_clipping(
        name="clipped by value",
        seen="clip_grad_value_, optax.clip",
        around={"clip": by_value},
    ),
    of_clipping(
        name="not clipped",
        seen="an argument that is ignored",
        around={"clip": lambda m, c, g, r: g},
    ),
    Fault(
        name="scaled to the norm, not clipped",
        rung="clipping",
        place="short enough: {leaf}",
        seen="normalised gradients",
        around={"clip": always_to_norm},
    ),
    of_clipping(
        name="norm of the gradient in float32",
        seen="norms gathered as float32",
        around=scaled_to_norm(lambda name: "all", dtype=np.float32),
        float32_inside=True,
    ),
)

SCHEDULE = (
    of_schedule(
        name="schedule a step late",
        seen="counted after the update",
        around=rates(lambda found, recipe: np.concatenate([found[:1], found[:-1]])),
    ),
    of_schedule(
        name="schedule a step early",
        seen="counted from one",
        around=rates(step_early),
    ),
    of_schedule(
        name="warm-up counted from one",
        seen="(step + 1) / warmup",
        around=rising(lambda step, warmup: (step + 1) / warmup),
    ),
    of_schedule(
        name="warm-up not from zero",
        seen="(step + 1) / (warmup + 1), as in nanoGPT",
        around=rising(lambda step, warmup: (step + 1) / (warmup + 1)),
    ),
    of_schedule(
        name="warm-up from a third",
        seen="the default start_factor of torch.optim.lr_scheduler.LinearLR",
        around=rising(lambda step, warmup: (1 + 2 * step / max(warmup, 1)) / 3),
    ),
    of_schedule(
        name="cosine over the warm-up too",
        seen="a cosine that has been falling all through the warm-up",
        around=falling(lambda step, recipe: step / recipe.epochs),
    ),
    of_schedule(
        name="cosine as long as all steps",
        seen="T_max of all steps, begun after the warm-up",
        around=falling(lambda step, recipe: (step - round(recipe.warmup_epochs)) / recipe.epochs),
    ),
    of_schedule(
        name="cosine to a tenth",
        seen="eta_min, alpha",
        around=rates(cosine_to_a_tenth),
    ),
    of_schedule(
        name="cosine with a floor",
        seen="max(rate, min_lr)",
        around=rates(cosine_with_a_floor),
    ),
    of_schedule(
        name="steps counted in bfloat16",
        place="cosine, 100 of 1000 steps to warm up",
        seen="a step that is cast as parameters are: from 256 on 1 is lost in it",
        around=rates(lambda found, recipe: found[np.minimum(np.arange(recipe.epochs), 256)]),
    ),
    of_schedule(
        name="rates in float32",
        seen="optax's schedules, whose steps are int32, without jax_enable_x64",
        around=rates(lambda found, recipe: found.astype(np.float32).astype(found.dtype)),
        float32_inside=True,
    ),
    of_schedule(
        name="fraction of a warm-up left out",
        place="cosine, 3.5 of 60 steps to warm up",
        seen="int(warmup_epochs), for a warm-up of whole epochs or steps alone",
        around=recipe_changed("rates", warmup_epochs=lambda r: float(math.floor(r.warmup_epochs))),
    ),
    of_schedule(
        name="half a step of warm-up counted whole",
        place="cosine, 2.5 of 60 steps to warm up",
        seen="a schedule that rounds halves up, or all up, where Python rounds them to even",
        around=recipe_changed("rates", warmup_epochs=lambda r: float(math.floor(r.warmup_epochs + 0.5))),
    ),
    of_schedule(
        name="no warm-up",
        seen="an argument that is ignored",
        around=recipe_changed("rates", warmup_epochs=0.0),
    ),
)
