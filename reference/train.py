"""Training in plain PyTorch: loss, clipping, optimizer, schedule, step. The twin of `vit_flax/train.py`.

Where PyTorch's own rule and optax's differ, the rule is an argument: see `conformance/rules.py`.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from reference.config import Recipe

TORCH_CLIP_EPSILON = 1e-6  # what torch.nn.utils.clip_grad_norm_ adds to the norm it divides by


def cross_entropy(
    logits: Float[Tensor, "B classes"], labels: Int[Tensor, "B"], mask: Float[Tensor, "B"], label_smoothing: float
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over the images whose mask is 1; at least in float32."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(wide, labels, reduction="none", label_smoothing=label_smoothing)
    return (losses * mask).sum() / mask.sum()


def accuracy(
    logits: Float[Tensor, "B classes"], labels: Int[Tensor, "B"], mask: Float[Tensor, "B"]
) -> Float[Tensor, ""]:
    """The share of the images whose mask is 1 whose largest logit is their label's."""
    return ((logits.argmax(dim=-1) == labels) * mask).sum() / mask.sum()


@torch.no_grad()
def clip_(gradients: Iterable[Tensor], max_norm: float, epsilon: float) -> None:
    """Scale all gradients by max_norm / (norm + epsilon), where that is below 1."""
    gradients = list(gradients)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    scale = torch.clamp(max_norm / (norm + epsilon), max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


def rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0: linear warm-up from zero, then constant or half a cosine."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.learning_rate * step / warmup
    if recipe.schedule == "constant":
        return recipe.learning_rate
    share = min((step - warmup) / max(recipe.epochs * steps_per_epoch - warmup, 1), 1.0)
    return recipe.learning_rate * (1 + math.cos(math.pi * share)) / 2


def optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """PyTorch's optimizer of that name. Its defaults differ from optax's: everything is written out."""
    r = recipe
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in parameters if decayed(name, p)], "weight_decay": r.weight_decay},
        {"params": [p for name, p in parameters if not decayed(name, p)], "weight_decay": 0.0},
    ]
    if r.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=r.learning_rate, momentum=r.momentum, dampening=0.0, nesterov=False)
    kind = torch.optim.AdamW if r.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=r.learning_rate, betas=(r.momentum, r.beta2), eps=r.epsilon, amsgrad=False)


def decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to kernels, but not to biases, norms, the class token and positions."""
    return parameter.ndim > 1 and name.endswith("weight")


def scheduler(
    recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """To be stepped after the optimizer, as PyTorch has it: the first step is taken at rate(0)."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(recipe, step, steps_per_epoch) / recipe.learning_rate
    )


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    images: Float[Tensor, "B height width C"],
    labels: Int[Tensor, "B"],
    recipe: Recipe,
    clip_epsilon: float,
) -> Float[Tensor, ""]:
    """One update of the parameters: the loss before it."""
    optimizer.zero_grad(set_to_none=True)
    loss = cross_entropy(model(images), labels, torch.ones(len(labels)).to(images), recipe.label_smoothing)
    loss.backward()
    if recipe.clip_norm is not None:
        clip_((p.grad for p in model.parameters() if p.grad is not None), recipe.clip_norm, clip_epsilon)
    optimizer.step()
    scheduler.step()
    return loss.detach()
