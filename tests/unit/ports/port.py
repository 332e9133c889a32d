"""A port of the twin with one thing written otherwise, as people write it."""

import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from conformance.rungs import Target
from conformance.torch_side import Twin
from reference import model as twin

Edit = Callable[[nn.Module], Any]


class Port(Twin):
    """`written` changes the model's code once it is built; `loaded` changes its weights each time they are loaded."""

    def __init__(self, config: Any, written: Edit | None = None, loaded: Edit | None = None) -> None:
        super().__init__(config, "cpu")
        self.loaded = loaded
        if written:
            written(self.model)

    def load(self, weights: Any) -> None:
        super().load(weights)
        if self.loaded:
            with torch.no_grad():
                self.loaded(self.model)


def written(edit: Edit) -> Target:
    return lambda config: Port(config, written=edit)


def loaded(edit: Edit) -> Target:
    return lambda config: Port(config, loaded=edit)


def doing(**methods: Callable[..., Any]) -> Target:
    """A port with some methods of its own."""
    kind = type("Doing", (Port,), methods)
    return lambda config: kind(config)


def parts(model: nn.Module, kind: type) -> Iterator[Any]:
    return (part for part in model.modules() if isinstance(part, kind))


def forward_of(kind: type, forward: Callable[..., Any]) -> Target:
    """Every part of this kind computes `forward(part, *inputs)`."""

    def edit(model: nn.Module) -> None:
        for part in parts(model, kind):
            part.forward = types.MethodType(forward, part)

    return written(edit)


def configured(**changes: Any) -> Target:
    """A model that is built for another config than its weights are for, of the same shapes."""

    def edit(model: nn.Module) -> None:
        model.config = dataclasses.replace(model.config, **changes)

    return written(edit)


def swap(a: nn.Module, b: nn.Module) -> None:
    a.weight, b.weight = b.weight, a.weight
    a.bias, b.bias = b.bias, a.bias


def course(
    *,
    embedded: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    read: Callable[[torch.Tensor], torch.Tensor] = lambda x: x[:, 0],
) -> Target:
    """What becomes of the tokens before the first layer, and what the head reads of them after the last."""

    def forward(self: Any, images: torch.Tensor, tap: twin.Tap = twin.untapped) -> torch.Tensor:
        x = tap("patches", self.patches(images))
        x = embedded(tap("embedding", self.dropout(self.embedding(x))))
        for i, layer in enumerate(self.encoder):
            x = tap(f"encoder/{i:02}", layer(x, self.drop_paths[i], tap=twin.within(f"encoder/{i:02}", tap)))
        x = tap("norm", self.norm(x))
        return tap("logits", self.head(read(x)))

    return forward_of(twin.ViT, forward)
