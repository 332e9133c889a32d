"""For each known fault of the course of training, a port that has it in its code."""

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import torch
from torch.nn import functional as F

from conformance.precision import to_torch
from conformance.rungs import Target
from conformance.torch_side import Twin
from reference import train
from tests.unit.ports.port import doing, loaded

Array = np.ndarray
sound = Twin.train


def in_order(order: Callable[[list[int]], list[int]]) -> Target:
    """The batches are taken in another order."""

    def method(self: Any, weights: Any, images: Array, labels: Array, recipe: Any) -> Any:
        taken = order(list(range(len(images))))
        return sound(self, weights, images[taken], labels[taken], recipe)

    return doing(train=method)


def second_twice(numbers: list[int]) -> list[int]:
    numbers[3] = numbers[2]
    return numbers


def resumed(self: Any, weights: Any, images: Array, labels: Array, recipe: Any) -> Any:
    """A checkpoint that holds parameters alone."""
    half = len(images) // 2
    losses, after = sound(self, weights, images[:half], labels[:half], recipe)
    checkpoint = {name: leaf.copy() for name, leaf in after[-1].items()}
    more, later = sound(self, checkpoint, images[half:], labels[half:], recipe)
    return np.concatenate([losses, more]), [*after, *later]


def faster(self: Any, weights: Any, images: Array, labels: Array, recipe: Any) -> Any:
    return sound(self, weights, images, labels, recipe.replace(learning_rate=1.01 * recipe.learning_rate))


def from_bfloat16(self: Any, weights: Any, images: Array, labels: Array, recipe: Any) -> Any:
    if images.dtype == np.float32:
        weights = {name: leaf.astype(ml_dtypes.bfloat16).astype(np.float32) for name, leaf in weights.items()}
    return sound(self, weights, images, labels, recipe)


def a_buffer(name: str) -> Target:
    """A leaf that asks for no gradient."""
    return loaded(lambda model: model.get_parameter(name).requires_grad_(False))


built, stepped = train.optimizer, train.train_step


def trained_with(**pieces: Callable[..., Any]) -> Target:
    """Trained with other pieces of `reference.train`."""

    def method(self: Any, *arguments: Any) -> Any:
        with mock.patch.multiple(train, **pieces):
            return sound(self, *arguments)

    return doing(train=method)


def at_rate_0(name: str) -> Target:
    """A leaf in a parameter group of its own, whose rate is 0."""

    def apart(recipe: Any, model: Any) -> torch.optim.Optimizer:
        optimizer, leaf = built(recipe, model), model.get_parameter(name)
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter is not leaf]
        optimizer.add_param_group({"params": [leaf], "lr": 0.0})
        return optimizer

    return trained_with(optimizer=apart)


def decaying_at_the_peak(recipe: Any, model: Any) -> torch.optim.Optimizer:
    optimizer = built(dataclasses.replace(recipe, weight_decay=0.0), model)
    kernels = optimizer.param_groups[0]["params"]

    @torch.no_grad()
    def decay(*_: Any) -> None:
        for kernel in kernels:
            kernel.mul_(1 - recipe.learning_rate * recipe.weight_decay)

    optimizer.register_step_pre_hook(decay)
    return optimizer


class Velocity(torch.optim.SGD):
    """v = m v - lr g, and then p = p + v."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for leaf in group["params"]:
                v = self.state[leaf].get("v", torch.zeros_like(leaf))
                self.state[leaf]["v"] = group["momentum"] * v - group["lr"] * leaf.grad
                leaf.add_(self.state[leaf]["v"])


def by_velocity(recipe: Any, model: Any) -> torch.optim.Optimizer:
    if recipe.optimizer != "sgd":
        return built(recipe, model)
    return Velocity(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)


def clipped_late(
    model: Any, optimizer: Any, scheduler: Any, images: Any, labels: Any, recipe: Any, clip_epsilon: float
) -> torch.Tensor:
    """What is clipped is the update: optax.chain(adamw(...), clip_by_global_norm(...))."""
    leaves = list(model.parameters())
    before = [leaf.detach().clone() for leaf in leaves]
    unclipped = dataclasses.replace(recipe, clip_norm=None)
    loss = stepped(model, optimizer, scheduler, images, labels, unclipped, clip_epsilon)
    with torch.no_grad():
        moves = [leaf - was for leaf, was in zip(leaves, before, strict=True)]
        train.clip_(moves, recipe.clip_norm or torch.inf, clip_epsilon)
        for leaf, was, move in zip(leaves, before, moves, strict=True):
            leaf.copy_(was + move)
    return loss


def accumulating(clipped: Callable[[list[list[torch.Tensor]], float], list[torch.Tensor]]) -> Callable[..., Any]:
    """A training step of two micro-batches: the gradient is `clipped(their shares of it, the norm allowed)`."""

    def train_step(
        model: Any, optimizer: Any, scheduler: Any, images: Any, labels: Any, recipe: Any, clip_epsilon: float
    ) -> torch.Tensor:
        leaves, shares, whole = list(model.parameters()), [], torch.zeros(()).to(images)
        for x, y in zip(images.tensor_split(2), labels.tensor_split(2), strict=True):
            optimizer.zero_grad()
            mean = train.cross_entropy(model(x), y, torch.ones(len(y)).to(x), recipe.label_smoothing)
            loss = mean * len(y) / len(labels)
            loss.backward()
            shares.append([leaf.grad for leaf in leaves])
            whole += loss.detach()
        norm = torch.inf if recipe.clip_norm is None else recipe.clip_norm
        for leaf, g in zip(leaves, clipped(shares, norm), strict=True):
            leaf.grad = g
        optimizer.step()
        scheduler.step()
        return whole

    return train_step


def one_by_one(shares: list[list[torch.Tensor]], norm: float) -> list[torch.Tensor]:
    for share in shares:
        train.clip_(share, norm / len(shares), 0.0)
    return [torch.stack(parts).sum(dim=0) for parts in zip(*shares, strict=True)]


def after_each(shares: list[list[torch.Tensor]], norm: float) -> list[torch.Tensor]:
    total = [torch.zeros_like(g) for g in shares[0]]
    for share in shares:
        for sum_, g in zip(total, share, strict=True):
            sum_.add_(g)
        train.clip_(total, norm, 0.0)
    return total


clip_ = train.clip_


def still_scaled(gradients: Any, norm: float, epsilon: float) -> None:
    """The loss was scaled by 65,536, and is unscaled after this."""
    scaled = list(gradients)
    for g in scaled:
        g.mul_(65536)
    clip_(scaled, norm, epsilon)
    for g in scaled:
        g.div_(65536)


scheduled = train.scheduler


def before_the_optimizer(recipe: Any, optimizer: Any, steps_per_epoch: int) -> Any:
    """The scheduler steps in front of each step of the optimizer, and not after it."""
    scheduler = scheduled(recipe, optimizer, steps_per_epoch)
    optimizer.register_step_pre_hook(lambda *_: scheduler.step())
    return mock.Mock()


def stored_in_float32(self: Any, weights: Any, images: Array, labels: Array, *more: Any) -> Any:
    for loss in Twin._steps(self, weights, images, labels, *more):
        with torch.no_grad():
            for leaf in self.state.parameters():
                leaf.copy_(leaf.float())
        yield loss


def measured_late(self: Any, weights: Any, images: Array, labels: Array, recipe: Any, draw: Any) -> Any:
    steps = Twin._steps(self, weights, images, labels, recipe, draw)
    for batch, names, _ in zip(images, labels, steps, strict=True):
        with torch.no_grad():
            logits = self.model(to_torch(batch, "cpu"))
        yield F.cross_entropy(logits, torch.tensor(names), label_smoothing=recipe.label_smoothing).numpy()


def gradients(change: Callable[[torch.Tensor], torch.Tensor]) -> Target:
    """What the backward pass leaves in each parameter is changed before anything is done with it."""
    return loaded(lambda model: [leaf.register_hook(change) for leaf in model.parameters()])


def kept_in_bfloat16(dtype: torch.dtype) -> Target:
    return gradients(lambda g: g.bfloat16().to(dtype) if g.dtype == dtype else g)


COURSE: dict[str, Target] = {
    "optimizer forgotten half-way": doing(train=resumed),
    "batches in another order": in_order(lambda numbers: [0, 2, 1, *numbers[3:]]),
    "a batch repeated": in_order(second_twice),
    "a rate of 1.01 times": doing(train=faster),
    "scheduler stepped first": trained_with(scheduler=before_the_optimizer),
    "rate inside the velocity": trained_with(optimizer=by_velocity),
    "decay at the highest rate": trained_with(optimizer=decaying_at_the_peak),
    "not clipped in training": trained_with(train_step=clipped_late),
    "clipped before unscaling": trained_with(clip_=still_scaled),
    "micro-batches clipped one by one": trained_with(train_step=accumulating(one_by_one)),
    "clipped after each micro-batch": trained_with(train_step=accumulating(after_each)),
    "master weights from bfloat16": doing(train=from_bfloat16),
    "gradients summed over micro-batches": gradients(lambda g: 4 * g),
    "loss scale never undone": gradients(lambda g: 1024 * g),
    "gradients doubled": gradients(lambda g: 2 * g),
    "gradients kept in bfloat16": kept_in_bfloat16(torch.float64),
    "float32 training's gradients in bfloat16": kept_in_bfloat16(torch.float32),
    "class token a buffer": a_buffer("embedding.cls_token"),
    "positions a buffer": a_buffer("embedding.position_embedding"),
    "class token not updated": at_rate_0("embedding.cls_token"),
    "positions not updated": at_rate_0("embedding.position_embedding"),
    "parameters in float32 between steps": doing(_steps=stored_in_float32),
    "loss after the step": doing(_steps=measured_late),
}
