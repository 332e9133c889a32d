"""For each known fault of the optimizer, and some of its course, a port that has it in its code."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn

from conformance.flax_side import FlaxSide
from conformance.precision import to_torch
from conformance.rungs import Target
from reference import train
from tests.unit.ports.port import doing
from vit_flax.optimizer import decayed
from vit_flax.weights import from_params

Groups = Callable[[str, nn.Parameter], bool]  # which parameters decay


def torch_optimizer(build: Callable[[Any, Any], Any], decays: Groups = train.decayed, only: str = "") -> Target:
    """`build(recipe, parameter groups)`; where it is for one optimizer only, the others are sound."""

    def method(self: Any, weights: Any, gradients: Any, state: Any, recipe: Any) -> Any:
        if only and recipe.optimizer != only:
            return super(type(self), self).update(weights, gradients, state, recipe)
        self.load(weights)
        named = list(self.state.named_parameters())
        groups = [
            {"params": [p for name, p in named if decays(name, p)], "weight_decay": recipe.weight_decay},
            {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
        ]
        optimizer = build(recipe, groups)
        if state is not None:
            optimizer.load_state_dict(state)
        grads = self.layout.write(gradients, self.config)
        for name, parameter in named:
            parameter.grad = to_torch(grads[name], "cpu")
        optimizer.step()
        return self.read(), optimizer.state_dict()

    return doing(update=method)


def adam_like(**changes: Any) -> Callable[[Any, Any], Any]:
    def build(recipe: Any, groups: Any) -> Any:
        if recipe.optimizer == "sgd":
            return sgd()(recipe, groups)
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        given = {"betas": (recipe.momentum, recipe.beta2), "eps": recipe.epsilon}
        return kind(groups, lr=recipe.learning_rate, **given | changes)

    return build


def stored_in_bfloat16(recipe: Any, groups: Any) -> Any:
    """The first moment is cast where it is stored, after the step that it is part of."""
    optimizer = adam_like()(recipe, groups)

    @torch.no_grad()
    def store(*_: Any) -> None:
        for state in optimizer.state.values():
            if "exp_avg" in state:
                state["exp_avg"].copy_(state["exp_avg"].bfloat16())

    optimizer.register_step_post_hook(store)
    return optimizer


def sgd(**changes: Any) -> Callable[[Any, Any], Any]:
    return lambda recipe, groups: torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, **changes)


def l2(recipe: Any, groups: Any) -> Any:
    return torch.optim.Adam(groups, lr=recipe.learning_rate, betas=(recipe.momentum, recipe.beta2), eps=recipe.epsilon)


class OlderAdamW(torch.optim.Optimizer):
    """As transformers had it: corrected by the step's size, and decayed after it."""

    def __init__(self, recipe: Any, groups: Any) -> None:
        super().__init__(groups, {"weight_decay": 0.0})
        self.r = recipe

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        r = self.r
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
                state["step"] += 1
                state["mean"].mul_(r.momentum).add_(p.grad, alpha=1 - r.momentum)
                state["square"].mul_(r.beta2).addcmul_(p.grad, p.grad, value=1 - r.beta2)
                mean = state["mean"] / (1 - r.momentum ** state["step"])
                square = state["square"] / (1 - r.beta2 ** state["step"])
                p.addcdiv_(mean, square.sqrt().add_(r.epsilon), value=-r.learning_rate)
                p.add_(p, alpha=-r.learning_rate * group["weight_decay"])


def in_optax(rule: Callable[[Any], optax.GradientTransformation], *only: str) -> Target:
    class Optax(FlaxSide):
        def update(self, weights: Any, gradients: Any, state: Any, recipe: Any) -> Any:
            if recipe.optimizer not in only:
                return super().update(weights, gradients, state, recipe)
            with jax.enable_x64(True):
                transformation = rule(recipe)
                params = self._params(weights)
                state = transformation.init(params) if state is None else state
                updates, state = transformation.update(self._params(gradients), state, params)
                return from_params(optax.apply_updates(params, updates)), state

    return Optax


def adamw(recipe: Any, mask: Any, **changes: Any) -> optax.GradientTransformation:
    given = {"b1": recipe.momentum, "b2": recipe.beta2, "eps": recipe.epsilon, "weight_decay": recipe.weight_decay}
    return optax.adamw(recipe.learning_rate, mask=mask, **given | changes)


def as_it_is(x: Any) -> Any:
    return x


def narrow(x: Any) -> Any:
    return x.astype(jnp.bfloat16).astype(x.dtype)


def corrected(m: Any, v: Any, t: int, recipe: Any) -> Any:
    return m / (1 - recipe.momentum**t) / ((v / (1 - recipe.beta2**t)) ** 0.5 + recipe.epsilon)


def by_hand(
    direction: Callable[..., Any], first: Callable[[Any], Any] = as_it_is, second: Callable[[Any], Any] = as_it_is
) -> Callable[[Any], optax.GradientTransformation]:
    """Adam as one writes it down: `direction(mean, square, update, recipe)`; the two are kept as `first`, `second`."""

    def rule(recipe: Any) -> optax.GradientTransformation:
        def init(params: Any) -> Any:
            zeros = jax.tree.map(np.zeros_like, params)
            return 0, zeros, zeros

        def update(grads: Any, state: Any, params: Any) -> Any:
            t, b1, b2 = state[0] + 1, recipe.momentum, recipe.beta2
            m = jax.tree.map(lambda m, g: first(b1 * m + (1 - b1) * g), state[1], grads)
            v = jax.tree.map(lambda v, g: second(b2 * v + (1 - b2) * g**2), state[2], grads)
            return jax.tree.map(lambda m, v: direction(m, v, t, recipe), m, v), (t, m, v)

        return decaying(optax.GradientTransformation(init, update), recipe)

    return rule


def decaying(moments: optax.GradientTransformation, recipe: Any) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=decayed)
    return optax.chain(moments, decay, optax.scale(-recipe.learning_rate))


def uncorrected(m: Any, v: Any, t: int, recipe: Any) -> Any:
    return m / (v**0.5 + recipe.epsilon)


def corrected_late(m: Any, v: Any, t: int, recipe: Any) -> Any:
    v_hat = v / (1 - recipe.beta2 ** max(t - 1, 1))
    return m / (1 - recipe.momentum**t) / (v_hat**0.5 + recipe.epsilon)


def tensorflows(m: Any, v: Any, t: int, recipe: Any) -> Any:
    """The step's length is corrected, not its averages."""
    return (1 - recipe.beta2**t) ** 0.5 / (1 - recipe.momentum**t) * m / (v**0.5 + recipe.epsilon)


def amsgrad(recipe: Any) -> optax.GradientTransformation:
    moments = optax.scale_by_amsgrad(b1=recipe.momentum, b2=recipe.beta2, eps=recipe.epsilon)
    return decaying(moments, recipe)


def moments_of_adam(**changes: Callable[[Any], Any]) -> Callable[[Any], optax.GradientTransformation]:
    """optax's Adam with arguments that are functions of the recipe."""

    def rule(recipe: Any) -> optax.GradientTransformation:
        given = {"b1": recipe.momentum, "b2": recipe.beta2, "eps": recipe.epsilon}
        changed = {name: change(recipe) for name, change in changes.items()}
        return decaying(optax.scale_by_adam(**given | changed), recipe)

    return rule


def ascending(recipe: Any) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=decayed)
    moments = optax.scale_by_adam(b1=recipe.momentum, b2=recipe.beta2, eps=recipe.epsilon)
    direction = optax.trace(recipe.momentum) if recipe.optimizer == "sgd" else moments
    return optax.chain(direction, decay, optax.scale(recipe.learning_rate))


def rate_free_decay(recipe: Any) -> optax.GradientTransformation:
    moments = optax.scale_by_adam(b1=recipe.momentum, b2=recipe.beta2, eps=recipe.epsilon)
    decay = optax.add_decayed_weights(-recipe.weight_decay, mask=decayed)
    return optax.chain(moments, optax.scale(-recipe.learning_rate), decay)


def averaged(recipe: Any) -> optax.GradientTransformation:
    return optax.chain(optax.ema(recipe.momentum, debias=False), optax.scale(-recipe.learning_rate))


def named(ending: str) -> Groups:
    return lambda name, p: train.decayed(name, p) or name.endswith(ending)


OPTIMIZER: dict[str, Target] = {
    "Adam's epsilon 1e-7": torch_optimizer(adam_like(eps=1e-7)),
    "Adam's second beta 0.99": torch_optimizer(adam_like(betas=(0.9, 0.99))),
    "no bias correction": in_optax(by_hand(uncorrected), "adam", "adamw"),
    "Adam's second correction a step late": in_optax(by_hand(corrected_late), "adam", "adamw"),
    "AMSGrad": torch_optimizer(adam_like(amsgrad=True)),
    "AMSGrad of corrected averages": in_optax(amsgrad, "adam", "adamw"),
    "Adam's epsilon inside the root": in_optax(
        moments_of_adam(eps=lambda recipe: 0.0, eps_root=lambda recipe: recipe.epsilon), "adam", "adamw"
    ),
    "Adam's epsilon before the correction": in_optax(by_hand(tensorflows), "adam", "adamw"),
    "Adam's first moment in bfloat16": in_optax(moments_of_adam(mu_dtype=lambda recipe: jnp.bfloat16), "adam", "adamw"),
    "Adam's first moment stored in bfloat16": torch_optimizer(stored_in_bfloat16),
    "Adam's second moment in bfloat16": in_optax(by_hand(corrected, second=narrow), "adam", "adamw"),
    "Adam's moments in bfloat16": in_optax(by_hand(corrected, narrow, narrow), "adam", "adamw"),
    "update uphill": in_optax(ascending, "adam", "adamw", "sgd"),
    "decay of everything": in_optax(lambda recipe: adamw(recipe, None), "adamw"),
    "decay of all but vectors": torch_optimizer(adam_like(), decays=lambda name, p: p.ndim > 1),
    "positions decayed": torch_optimizer(adam_like(), decays=named("position_embedding")),
    "class token decayed": torch_optimizer(adam_like(), decays=named("cls_token")),
    "norms decayed": torch_optimizer(adam_like(), decays=lambda name, p: name.endswith("weight")),
    "decay of the other framework": in_optax(
        lambda recipe: adamw(recipe, decayed, weight_decay=recipe.weight_decay / 100), "adamw"
    ),
    "decay through the gradient": torch_optimizer(l2, only="adamw"),
    "decay of the wrong sign": in_optax(
        lambda recipe: adamw(recipe, decayed, weight_decay=-recipe.weight_decay), "adamw"
    ),
    "decay not times the rate": in_optax(rate_free_decay, "adamw"),
    "decay after the step": torch_optimizer(OlderAdamW, only="adamw"),
    "Nesterov's momentum": torch_optimizer(sgd(nesterov=True), only="sgd"),
    "momentum dampened": torch_optimizer(
        lambda recipe, groups: sgd(dampening=recipe.momentum)(recipe, groups), only="sgd"
    ),
    "momentum as an average": in_optax(averaged, "sgd"),
}
