"""Faults of the optimizer: around `update(weights, gradients, state, recipe)`.

A state is kept with what the fault itself remembers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from conformance.faults import Around, Fault, is_kernel, recipe_changed
from conformance.rounding import to_bfloat16
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe
from vit_flax.weights import Weights

Array = np.ndarray
Arrays = dict[str, Array]


def stepped(change: Callable[[Weights, Weights, Arrays, Recipe], Weights], only: tuple[str, ...]) -> dict[str, Around]:
    """After each update of certain optimizers: `change(before, after, gradients, recipe)`."""

    def around(
        method: Around, config: ViTConfig, weights: Weights, gradients: Arrays, state: Any, recipe: Recipe
    ) -> Any:
        after, state = method(weights, gradients, state, recipe)
        return (change(weights, after, gradients, recipe) if recipe.optimizer in only else after), state

    return {"update": around}


def before_update(
    change: Callable[[Weights, Arrays, bool, Recipe], tuple[Arrays, Recipe]], only: str
) -> dict[str, Around]:
    """Before each update of one optimizer, its gradients and recipe are others; the flag says that it is the first."""

    def around(
        method: Around, config: ViTConfig, weights: Weights, gradients: Arrays, state: Any, recipe: Recipe
    ) -> Any:
        if recipe.optimizer == only:
            gradients, recipe = change(weights, gradients, state is None, recipe)
        return method(weights, gradients, state, recipe)

    return {"update": around}


def correction(beta: float, step: int) -> float:
    """What an average that began at zero lacks, updates counted from 1."""
    return 1 - beta**step


def adam(
    *,
    first: Callable[[float, int], float] = correction,
    second: Callable[[float, int], float] = correction,
    seen: Callable[[Array, Array, float], Array] = lambda last, square, lacks: square,
    divisor: Callable[[Array, float, Recipe], Array] = lambda square, lacks, r: np.sqrt(square / lacks) + r.epsilon,
    carried: Callable[[float, Array], Array] = lambda beta, mean: beta * mean,
    first_kept: Callable[[Array], Array] = lambda mean: mean,
    second_kept: Callable[[Array], Array] = lambda square: square,
) -> dict[str, Around]:
    """Adam and AdamW (arXiv:1412.6980, algorithm 1), with something done otherwise.

    `first` and `second` are the corrections of the two averages, `first_kept` and `second_kept` what becomes of them
    before they serve, `carried` is what is left of the first one at the next update. The second is divided by as
    `seen(as seen last, the average, its correction)` and `divisor` have it.
    """

    def around(
        method: Around, config: ViTConfig, weights: Weights, gradients: Arrays, state: Any, r: Recipe
    ) -> tuple[Weights, Any]:
        if r.optimizer == "sgd":
            return method(weights, gradients, state, r)
        zeros = {name: np.zeros_like(g) for name, g in gradients.items()}
        step, means, squares, last = state or (0, zeros, zeros, zeros)
        step, lacks = step + 1, second(r.beta2, step + 1)
        means, squares = dict(means), dict(squares)
        for name, g in gradients.items():
            means[name] = first_kept(carried(r.momentum, means[name]) + (1 - r.momentum) * g)
            squares[name] = second_kept(r.beta2 * squares[name] + (1 - r.beta2) * g**2)
        last = {name: seen(last[name], square, lacks) for name, square in squares.items()}
        after = {}
        for name, w in weights.items():
            move = means[name] / first(r.momentum, step) / divisor(last[name], lacks, r)
            if r.optimizer == "adamw" and is_kernel(name):
                move = move + r.weight_decay * w
            after[name] = (w - r.learning_rate * move).astype(w.dtype)
        return after, (step, means, squares, last)

    return {"update": around}


def uncorrected(beta: float, step: int) -> float:
    return 1.0


def multiplied_in_bfloat16(beta: float, mean: Array) -> Array:
    """optax multiplies what it kept by beta, which is then as narrow."""
    return to_bfloat16(to_bfloat16(np.array(beta)) * to_bfloat16(mean))


def decays_too(decayed: Callable[[str, np.ndarray], bool]) -> dict[str, Around]:
    """Leaves that are no kernels decay as kernels do."""

    def change(before: Weights, after: Weights, gradients: Arrays, recipe: Recipe) -> Weights:
        step = recipe.learning_rate * recipe.weight_decay
        more = [name for name, x in before.items() if decayed(name, x) and not is_kernel(name)]
        return after | {name: after[name] - step * before[name] for name in more}

    return stepped(change, ("adamw",))


def kernels(change: Callable[[np.ndarray, np.ndarray, Recipe], np.ndarray]) -> dict[str, Around]:
    """AdamW's kernels come out otherwise: `change(before, after, recipe)`."""

    def each(before: Weights, after: Weights, gradients: Arrays, recipe: Recipe) -> Weights:
        return after | {name: change(before[name], x, recipe) for name, x in after.items() if is_kernel(name)}

    return stepped(each, ("adamw",))


def decay_without_rate(before: np.ndarray, after: np.ndarray, recipe: Recipe) -> np.ndarray:
    return after - recipe.weight_decay * (1 - recipe.learning_rate) * before


def decay_of_the_wrong_sign(before: np.ndarray, after: np.ndarray, recipe: Recipe) -> np.ndarray:
    return after + 2 * recipe.learning_rate * recipe.weight_decay * before


def decay_after_the_step(before: np.ndarray, after: np.ndarray, recipe: Recipe) -> np.ndarray:
    """What has been updated decays, not what was there before."""
    decay = recipe.learning_rate * recipe.weight_decay
    return (after + decay * before) * (1 - decay)


def uphill(before: Weights, after: Weights, gradients: Arrays, recipe: Recipe) -> Weights:
    return {name: 2 * before[name] - x for name, x in after.items()}


def nesterov(before: Weights, after: Weights, gradients: Arrays, recipe: Recipe) -> Weights:
    rate, m = recipe.learning_rate, recipe.momentum
    return {name: before[name] - rate * gradients[name] + m * (x - before[name]) for name, x in after.items()}


def through_the_gradient(weights: Weights, gradients: Arrays, first: bool, recipe: Recipe) -> tuple[Arrays, Recipe]:
    """L2: what decays goes through Adam's averages."""
    decayed = {n: g + recipe.weight_decay * weights[n] if is_kernel(n) else g for n, g in gradients.items()}
    return decayed, recipe.replace(weight_decay=0.0)


def dampened(weights: Weights, gradients: Arrays, first: bool, recipe: Recipe) -> tuple[Arrays, Recipe]:
    """PyTorch's dampening spares the first gradient."""
    factor = 1.0 if first else 1 - recipe.momentum
    return {name: factor * g for name, g in gradients.items()}, recipe


def averaged(weights: Weights, gradients: Arrays, first: bool, recipe: Recipe) -> tuple[Arrays, Recipe]:
    return {name: (1 - recipe.momentum) * g for name, g in gradients.items()}, recipe


of_adam = partial(Fault, rung="optimizer", place="adam: {leaf}")
of_decay = partial(Fault, rung="optimizer", place="adamw: {kernel}")
of_sgd = partial(Fault, rung="optimizer", place="sgd: {leaf}")

OPTIMIZER = (
    of_adam(
        name="Adam's epsilon 1e-7",
        seen="Keras's default",
        around=recipe_changed("update", epsilon=1e-7),
    ),
    of_adam(
        name="Adam's second beta 0.99",
        seen="another recipe's",
        around=recipe_changed("update", beta2=0.99),
    ),
    of_adam(
        name="no bias correction",
        seen="correct_bias=False of older AdamW",
        around=adam(first=uncorrected, second=uncorrected),
    ),
    of_adam(
        name="Adam's second correction a step late",
        seen="a counter that is raised after the first step, or between the two corrections",
        around=adam(second=lambda beta, step: correction(beta, max(step - 1, 1))),
    ),
    of_adam(
        name="AMSGrad",
        seen="amsgrad=True",
        around=adam(seen=lambda last, square, lacks: np.maximum(last, square)),
    ),
    of_adam(
        name="AMSGrad of corrected averages",
        seen="optax.amsgrad, which corrects them before it takes the larger",
        around=adam(
            seen=lambda last, square, lacks: np.maximum(last, square / lacks),
            divisor=lambda square, lacks, r: np.sqrt(square) + r.epsilon,
        ),
    ),
    of_adam(
        name="Adam's epsilon inside the root",
        seen="eps_root for eps",
        around=adam(divisor=lambda square, lacks, r: np.sqrt(square / lacks + r.epsilon)),
    ),
    of_adam(
        name="Adam's epsilon before the correction",
        seen="TensorFlow's Adam: the paper's epsilon hat",
        around=adam(divisor=lambda square, lacks, r: (np.sqrt(square) + r.epsilon) / np.sqrt(lacks)),
    ),
    of_adam(
        name="Adam's first moment in bfloat16",
        seen="optax.adamw(mu_dtype=jnp.bfloat16)",
        around=adam(carried=multiplied_in_bfloat16),
    ),
    of_adam(
        name="Adam's first moment stored in bfloat16",
        seen="a state that is cast where it is stored, and widened before it serves",
        around=adam(carried=lambda beta, mean: beta * to_bfloat16(mean)),
    ),
    of_adam(
        name="Adam's second moment in bfloat16",
        seen="a state of one narrow dtype, where optax narrows the first moment alone",
        around=adam(second_kept=to_bfloat16),
    ),
    of_adam(
        name="Adam's moments in bfloat16",
        seen="a state that is made like parameters in bfloat16",
        around=adam(first_kept=to_bfloat16, second_kept=to_bfloat16),
    ),
    of_adam(
        name="update uphill",
        seen="optax.scale(+learning_rate)",
        around=stepped(uphill, ("adam", "adamw", "sgd")),
    ),
    of_decay(
        name="decay of everything",
        place="adamw: {leaf}",
        seen="optax.adamw without a mask",
        around=decays_too(lambda name, x: True),
    ),
    of_decay(
        name="decay of all but vectors",
        place="adamw: embedding/cls_token",
        seen="a mask of ndim > 1, which class token and positions pass",
        around=decays_too(lambda name, x: x.ndim > 1),
    ),
    of_decay(
        name="positions decayed",
        place="adamw: embedding/position_embedding",
        seen="timm's no_weight_decay() not asked",
        around=decays_too(lambda name, x: name.endswith("position_embedding")),
    ),
    of_decay(
        name="class token decayed",
        place="adamw: embedding/cls_token",
        seen="timm's no_weight_decay() not asked",
        around=decays_too(lambda name, x: name.endswith("cls_token")),
    ),
    of_decay(
        name="norms decayed",
        place="adamw: {scale}",
        seen="a mask of names that end in weight",
        around=decays_too(lambda name, x: name.endswith("scale")),
    ),
    of_decay(
        name="decay of the other framework",
        seen="1e-2 in PyTorch, 1e-4 in optax",
        around=recipe_changed("update", weight_decay=lambda r: r.weight_decay / 100),
    ),
    of_decay(
        name="decay through the gradient",
        seen="torch.optim.Adam(weight_decay)",
        around=before_update(through_the_gradient, "adamw"),
    ),
    of_decay(
        name="decay of the wrong sign",
        seen="a sign that no loss curve shows",
        around=kernels(decay_of_the_wrong_sign),
    ),
    of_decay(
        name="decay not times the rate",
        seen="decoupled as the paper writes it",
        around=kernels(decay_without_rate),
    ),
    of_decay(
        name="decay after the step",
        seen="p.add_(p, alpha=-lr * weight_decay) last, as in older AdamW",
        around=kernels(decay_after_the_step),
    ),
    of_sgd(
        name="Nesterov's momentum",
        seen="nesterov=True",
        around=stepped(nesterov, ("sgd",)),
    ),
    of_sgd(
        name="momentum dampened",
        seen="dampening=momentum",
        around=before_update(dampened, "sgd"),
    ),
    of_sgd(
        name="momentum as an average",
        seen="optax.ema for optax.trace",
        around=before_update(averaged, "sgd"),
    ),
)
