"""The reference's training rules are PyTorch's own, where they are written out and where a switch says so."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import reference.config
from conformance.tolerances import FLOAT64
from reference import train
from vit_flax.recipe import Recipe, recipe

LOGITS = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 5)))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
PLAN = recipe("digits").replace(epochs=20, warmup_epochs=5.0, clip_norm=1.0)


def plan(**changes):
    names = [field.name for field in dataclasses.fields(reference.config.Recipe)]
    return reference.config.Recipe(**{name: getattr(PLAN.replace(**changes), name) for name in names})


def gradients(scale):
    rng = np.random.default_rng(1)
    return [scale * torch.from_numpy(rng.standard_normal(shape)) for shape in ((3, 4), (4,), (2, 2, 2))]


def torch_clipped(grads, max_norm):
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
    for parameter, g in zip(parameters, grads, strict=True):
        parameter.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return [p.grad for p in parameters]


def largest(ours, theirs):
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def test_the_recipe_has_fields_of_the_flax_sides():
    theirs = {field.name: field.type for field in dataclasses.fields(Recipe)}
    assert {field.name for field in dataclasses.fields(reference.config.Recipe)} <= set(theirs)


@pytest.mark.parametrize("scale", (0.01, 10.0))
def test_with_its_epsilon_clipping_is_pytorchs(scale):
    ours = gradients(scale)
    train.clip_(ours, 1.0, train.TORCH_CLIP_EPSILON)
    assert largest(ours, torch_clipped(gradients(scale), 1.0)) <= FLOAT64


def test_without_its_epsilon_clipping_is_not_pytorchs():
    ours = gradients(10.0)
    train.clip_(ours, 1.0, 0.0)
    assert largest(ours, torch_clipped(gradients(10.0), 1.0)) > 1000 * FLOAT64


def test_padding_counts_neither_in_the_loss_nor_in_the_accuracy():
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0], dtype=torch.float64)
    alone = F.cross_entropy(LOGITS[:4], LABELS[:4], label_smoothing=0.1)
    padded = train.cross_entropy(LOGITS, LABELS, mask, 0.1)
    assert abs(float(padded - alone)) <= FLOAT64
    assert abs(float(padded - F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))) > 1000 * FLOAT64
    right = LOGITS.argmax(dim=-1)
    assert train.accuracy(LOGITS, right, mask) == 1
    assert train.accuracy(LOGITS, torch.where(mask > 0, right, (right + 1) % 5), mask) == 1
    assert train.accuracy(LOGITS, torch.where(mask > 0, (right + 1) % 5, right), mask) == 0


def test_the_loss_of_bfloat16_logits_is_computed_in_float32():
    narrow, mask = LOGITS.bfloat16(), torch.ones(len(LABELS))
    loss = train.cross_entropy(narrow, LABELS, mask, 0.1)
    assert loss.dtype == torch.float32
    assert loss == train.cross_entropy(narrow.float(), LABELS, mask, 0.1)
    assert loss != F.cross_entropy(narrow, LABELS, label_smoothing=0.1)


def test_the_schedule_is_taken_from_its_first_rate():
    layer = torch.nn.Linear(2, 2)
    optimizer = train.optimizer(plan(), layer)
    scheduler = train.scheduler(plan(), optimizer, steps_per_epoch=1)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(abs(rates[k] - PLAN.learning_rate * k / 5) for k in range(6)) <= FLOAT64
    assert abs(rates[-1] - train.rate(plan(), 19, 1)) <= FLOAT64
    assert 0 < rates[-1] < 0.05 * PLAN.learning_rate


def test_kernels_decay_and_nothing_else_does():
    model = torch.nn.ModuleDict({"dense": torch.nn.Linear(2, 3), "norm": torch.nn.LayerNorm(3)})
    model.register_parameter("cls_token", torch.nn.Parameter(torch.zeros(1, 1, 3)))
    assert [n for n, p in model.named_parameters() if train.decayed(n, p)] == ["dense.weight"]
    assert train.decayed("patch_embed.proj.weight", torch.zeros(4, 3, 2, 2))
