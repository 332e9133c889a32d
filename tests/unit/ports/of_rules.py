"""For each known fault of loss, metric, clipping, schedule and optimizer, a port that has it in its code."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from conformance.flax_side import FlaxSide
from conformance.precision import from_torch, to_torch
from conformance.rungs import Target
from reference import train
from tests.unit.ports.port import doing

# Loss and metric


def loss(compute: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Target:
    """`compute(logits, labels, mask, smoothing)`."""

    def method(self: Any, logits: Any, labels: Any, mask: Any, recipe: Any) -> Any:
        z = to_torch(logits, "cpu").requires_grad_()
        value = compute(z, torch.tensor(labels), torch.tensor(mask), recipe.label_smoothing)
        value.backward()
        return from_torch(value), from_torch(z.grad)

    return doing(loss=method)


def losses(z: Tensor, y: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(z, y, reduction="none", label_smoothing=smoothing)


def others_only(z: Tensor, y: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    classes = z.shape[-1]
    targets = torch.full_like(z, smoothing / (classes - 1)).scatter_(1, y[:, None], 1 - smoothing)
    return (-(targets * z.log_softmax(dim=-1)).sum(dim=-1) * mask).sum() / mask.sum()


def by_devices(count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean over devices of each one's mean."""

    def mean(values: Tensor, mask: Tensor) -> Tensor:
        values, masks = values.reshape(count, -1), mask.reshape(count, -1)
        return ((values * masks).sum(dim=1) / masks.sum(dim=1).clamp(min=1)).mean()

    return mean


def loss_by_devices(count: int) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    return lambda z, y, mask, smoothing: by_devices(count)(losses(z, y, smoothing), mask)


def accuracy(mean: Callable[[Tensor, Tensor], Tensor], first: int = 0) -> Target:
    def method(self: Any, logits: Any, labels: Any, mask: Any) -> float:
        hits = torch.tensor(logits).argmax(dim=-1) + first == torch.tensor(labels)
        return float(mean(hits.double(), torch.tensor(mask)))

    return doing(accuracy=method)


def wrong_labels(self: Any, logits: Any, labels: Any, mask: Any) -> float:
    """Labels in 1 to 10, for classes 0 to 9."""
    return float((logits.argmax(axis=-1) == (labels + 1) % logits.shape[-1]) @ mask / mask.sum())


def with_z(z: Tensor, y: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    each = losses(z, y, smoothing) + 1e-4 * z.logsumexp(dim=-1) ** 2
    return (each * mask).sum() / mask.sum()


def of_probabilities(z: Tensor, y: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    targets = F.one_hot(y, z.shape[-1]).to(z.dtype) * (1 - smoothing) + smoothing / z.shape[-1]
    each = -(targets * torch.log(z.softmax(dim=-1) + 1e-7)).sum(dim=-1)
    return (each * mask).sum() / mask.sum()


def of_held_probabilities(z: Tensor, y: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    targets = F.one_hot(y, z.shape[-1]).to(z.dtype) * (1 - smoothing) + smoothing / z.shape[-1]
    p = z.softmax(dim=-1).clamp(1e-7, 1 - 1e-7)
    return (-(targets * p.log()).sum(dim=-1) * mask).sum() / mask.sum()


def likeliest(share: Callable[[Tensor], Tensor]) -> Target:
    """The accuracy of what is made of the logits."""

    def method(self: Any, logits: Any, labels: Any, mask: Any) -> Any:
        hits = share(to_torch(logits, "cpu")).argmax(dim=-1).numpy() == labels
        return (hits * mask).sum() / mask.sum()

    return doing(accuracy=method)


def tied(self: Any, logits: Any, labels: Any, mask: Any) -> float:
    z, y = torch.tensor(logits), torch.tensor(labels)
    hits = z.gather(1, y[:, None])[:, 0] >= z.amax(dim=1)
    return float((hits * torch.tensor(mask)).sum() / mask.sum())


LOSS: dict[str, Target] = {
    "labels not smoothed": loss(lambda z, y, mask, smoothing: (losses(z, y, 0.0) * mask).sum() / mask.sum()),
    "smoothing of the other classes only": loss(others_only),
    "loss summed": loss(lambda z, y, mask, smoothing: (losses(z, y, smoothing) * mask).sum()),
    "padding counted in the loss": loss(lambda z, y, mask, smoothing: losses(z, y, smoothing).mean()),
    "loss divided by the padded size": loss(lambda z, y, mask, smoothing: (losses(z, y, smoothing) * mask).mean()),
    "loss of the wrong sign": loss(lambda z, y, mask, smoothing: -(losses(z, y, smoothing) * mask).sum() / mask.sum()),
    "z-loss added": loss(with_z),
    "logarithm of softmax and epsilon": loss(of_probabilities),
    "probabilities clipped": loss(of_held_probabilities),
    "loss in the logits' half precision": loss(
        lambda z, y, mask, smoothing: (losses(z, y, smoothing) * mask).sum() / mask.sum()
    ),
    "padding counted in the accuracy": accuracy(lambda hits, mask: hits.mean()),
    "accuracy off by a class": doing(accuracy=wrong_labels),
    "a tie is right": doing(accuracy=tied),
    "likeliest class of rounded probabilities": likeliest(lambda z: torch.softmax(z, dim=-1)),
    "likeliest class of sigmoids": likeliest(torch.sigmoid),
}
for count in (2, 4, 8):
    LOSS[f"mean of {count} devices' means"] = loss(loss_by_devices(count))
    LOSS[f"accuracy a mean of {count} means"] = accuracy(by_devices(count))


# Clipping


def clip(rule: Callable[[dict[str, Tensor], float], Any]) -> Target:
    """`rule(parameters with gradients, bound)`, in place, as PyTorch has it."""

    def method(self: Any, gradients: Any, recipe: Any) -> Any:
        leaves = {name: nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for name, g in gradients.items()}
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(gradients[name])
        rule(leaves, recipe.clip_norm)
        return {name: leaf.grad.numpy() for name, leaf in leaves.items()}

    return doing(clip=method)


def each_leaf(leaves: dict[str, Tensor], bound: float) -> None:
    for leaf in leaves.values():
        train.clip_([leaf.grad], bound, 0.0)


def each_block(leaves: dict[str, Tensor], bound: float) -> None:
    blocks: dict[Any, list[Tensor]] = {}
    for name, leaf in leaves.items():
        first, second, *_ = name.split("/")
        blocks.setdefault((first, second) if first == "encoder" else first, []).append(leaf.grad)
    for block in blocks.values():
        train.clip_(block, bound, 0.0)


def decaying(name: str) -> bool:
    """The mask that weight decay is given."""
    return name.split("/")[-1] == "kernel"


def every_leaf(name: str) -> bool:
    return True


def norm_of(
    measured: Callable[[str], bool], scaled: Callable[[str], bool]
) -> Callable[[dict[str, Tensor], float], None]:
    """One norm, of some leaves, for some leaves."""

    def rule(leaves: dict[str, Tensor], bound: float) -> None:
        norm = nn.utils.get_total_norm([leaf.grad for name, leaf in leaves.items() if measured(name)])
        for name, leaf in leaves.items():
            if scaled(name):
                leaf.grad *= torch.clamp(bound / norm, max=1.0)

    return rule


def narrow_norm(leaves: dict[str, Tensor], bound: float) -> None:
    norm = torch.sqrt(sum((leaf.grad.float() ** 2).sum() for leaf in leaves.values()))
    for leaf in leaves.values():
        leaf.grad *= torch.clamp(bound / norm, max=1.0)


def to_norm(leaves: dict[str, Tensor], bound: float) -> None:
    norm = torch.linalg.vector_norm(torch.cat([leaf.grad.flatten() for leaf in leaves.values()]))
    for leaf in leaves.values():
        leaf.grad *= bound / norm


class ClippedByValue(FlaxSide):
    def clip(self, gradients: Any, recipe: Any) -> Any:
        with jax.enable_x64(True):
            rule = optax.clip(recipe.clip_norm)
            return jax.tree.map(np.asarray, rule.update(gradients, rule.init(gradients))[0])


CLIPPING: dict[str, Target] = {
    "clipped by norm and epsilon": clip(lambda leaves, bound: nn.utils.clip_grad_norm_(leaves.values(), bound)),
    "clipped leaf by leaf": clip(each_leaf),
    "clipped block by block": clip(each_block),
    "clipped by the kernels' norm": clip(norm_of(decaying, every_leaf)),
    "kernels alone clipped": clip(norm_of(decaying, decaying)),
    "clipped by value": ClippedByValue,
    "not clipped": doing(clip=lambda self, gradients, recipe: gradients),
    "scaled to the norm, not clipped": clip(to_norm),
    "norm of the gradient in float32": clip(narrow_norm),
}


# Schedule


def rates(rate: Callable[[Any, int], float]) -> Target:
    return doing(rates=lambda self, recipe: np.array([rate(recipe, step) for step in range(recipe.epochs)]))


def sound(recipe: Any, step: int) -> float:
    return train.rate(recipe, step, 1)


def warming(share: Callable[[int, int], float]) -> Target:
    def rate(recipe: Any, step: int) -> float:
        warmup = round(recipe.warmup_epochs)
        return recipe.learning_rate * share(step, warmup) if step < warmup else sound(recipe, step)

    return rates(rate)


def cosine(share: Callable[[Any, int], float], least: float = 0.0) -> Target:
    def rate(recipe: Any, step: int) -> float:
        if recipe.schedule == "constant" or step < round(recipe.warmup_epochs):
            return sound(recipe, step)
        return recipe.learning_rate * (least + (1 - least) * (1 + math.cos(math.pi * share(recipe, step))) / 2)

    return rates(rate)


def clamped(recipe: Any, step: int) -> float:
    warming_up = recipe.schedule == "constant" or step < round(recipe.warmup_epochs)
    return sound(recipe, step) if warming_up else max(sound(recipe, step), 1e-6)


def optaxes(self: Any, recipe: Any) -> np.ndarray:
    """optax's own schedules of int32 steps: JAX makes float32 of them."""
    warmup = round(recipe.warmup_epochs)
    after = optax.cosine_decay_schedule(recipe.learning_rate, max(recipe.epochs - warmup, 1))
    if recipe.schedule == "constant":
        after = optax.constant_schedule(recipe.learning_rate)
    schedule = optax.join_schedules([optax.linear_schedule(0.0, recipe.learning_rate, warmup), after], [warmup])
    return np.array([schedule(jnp.int32(step)) for step in range(recipe.epochs)], np.float64)


def linear_lr(self: Any, recipe: Any) -> np.ndarray:
    """PyTorch's own schedulers, one after the other."""
    warmup = round(recipe.warmup_epochs)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    after = lr_scheduler.CosineAnnealingLR(optimizer, max(recipe.epochs - warmup, 1))
    if recipe.schedule == "constant":
        after = lr_scheduler.ConstantLR(optimizer, factor=1.0)
    scheduler = after
    if warmup:
        rise = lr_scheduler.LinearLR(optimizer, total_iters=warmup)
        scheduler = lr_scheduler.SequentialLR(optimizer, [rise, after], milestones=[warmup])
    found = []
    for _ in range(recipe.epochs):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return np.array(found)


def counted_in_bfloat16(self: Any, recipe: Any) -> np.ndarray:
    step, found = torch.zeros((), dtype=torch.bfloat16), []
    for _ in range(recipe.epochs):
        found.append(sound(recipe, int(step)))
        step += 1
    return np.array(found)


SCHEDULE: dict[str, Target] = {
    "schedule a step late": rates(lambda recipe, step: sound(recipe, max(step - 1, 0))),
    "schedule a step early": rates(lambda recipe, step: sound(recipe, step + 1)),
    "warm-up counted from one": warming(lambda step, warmup: (step + 1) / warmup),
    "warm-up not from zero": warming(lambda step, warmup: (step + 1) / (warmup + 1)),
    "warm-up from a third": doing(rates=linear_lr),
    "cosine over the warm-up too": cosine(lambda recipe, step: step / recipe.epochs),
    "cosine as long as all steps": cosine(lambda recipe, step: (step - round(recipe.warmup_epochs)) / recipe.epochs),
    "cosine to a tenth": cosine(
        lambda recipe, step: (step - round(recipe.warmup_epochs)) / (recipe.epochs - round(recipe.warmup_epochs)), 0.1
    ),
    "cosine with a floor": rates(clamped),
    "steps counted in bfloat16": doing(rates=counted_in_bfloat16),
    "rates in float32": doing(rates=optaxes),
    "fraction of a warm-up left out": rates(
        lambda recipe, step: sound(recipe.replace(warmup_epochs=int(recipe.warmup_epochs)), step)
    ),
    "half a step of warm-up counted whole": rates(
        lambda recipe, step: sound(recipe.replace(warmup_epochs=math.floor(recipe.warmup_epochs + 0.5)), step)
    ),
    "no warm-up": rates(lambda recipe, step: sound(recipe.replace(warmup_epochs=0.0), step)),
}
