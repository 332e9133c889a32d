"""For each known fault of dropout and stochastic depth, a port that has it in its code."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from conformance.rungs import Target
from conformance.torch_side import Twin
from reference.model import MLP, DropPath, TransformerEncoder
from reference.model import MultiHeadSelfAttention as Attention
from tests.unit.ports.port import Port, doing, forward_of, parts, written

Shape = tuple[int, ...]


def drop(x: Tensor, shape: Shape, keep: float, scaled: bool = True) -> Tensor:
    mask = x.new_empty(shape).bernoulli_(keep)
    return x * mask / keep if scaled else x * mask


def dropout(compute: Callable[[Tensor, float], Tensor]) -> Target:
    """A Dropout of one's own: `compute(x, rate)`, in training."""

    def forward(self: nn.Dropout, x: Tensor) -> Tensor:
        return compute(x, self.p) if self.training and self.p else x

    return forward_of(nn.Dropout, forward)


def path(compute: Callable[[Tensor, float], Tensor]) -> Target:
    def forward(self: DropPath, x: Tensor) -> Tensor:
        return compute(x, self.rate) if self.training and self.rate else x

    return forward_of(DropPath, forward)


def of_tokens(shape: Callable[[Shape], Shape]) -> Callable[[Tensor, float], Tensor]:
    def compute(x: Tensor, rate: float) -> Tensor:
        return drop(x, shape(tuple(x.shape)) if x.ndim == 3 else tuple(x.shape), 1 - rate)

    return compute


def shared_attention_mask(model: nn.Module) -> None:
    for part in parts(model, Attention):
        part.attention_dropout.forward = lambda x, own=part.attention_dropout: (
            drop(x, (1, 1, *x.shape[2:]), 1 - own.p) if own.training else x
        )


def left_out(find: Callable[[nn.Module], list[nn.Module]]) -> Target:
    def edit(model: nn.Module) -> None:
        for part in find(model):
            part.forward = lambda x: x

    return written(edit)


def one_in_mlp(self: MLP, x: Tensor) -> Tensor:
    return self.dropout(self.fc2(self.activation(self.fc1(x))))


def all_of(kind: type) -> Callable[[nn.Module], list[Any]]:
    return lambda model: list(parts(model, kind))


def keeping_rate(config: Any) -> Port:
    """Built with the probability to keep where a rate is asked for."""
    rates = {name: getattr(config, name) for name in ("dropout", "attention_dropout", "drop_path")}
    return Port(dataclasses.replace(config, **{name: 1 - rate for name, rate in rates.items() if rate}))


def seeded_anew(self: Port, weights: Any, images: Any, seed: int) -> Any:
    return Twin.drawn(self, weights, images, seed=1234)


def one_key_for_all_layers(self: Port, weights: Any, images: Any, seed: int) -> Any:
    """Each layer draws what the first one drew; attention's mask, of four axes, is its first."""
    rng, drawn = np.random.default_rng(seed), {}
    place = 0

    def draw(shape: Shape, keep: float) -> np.ndarray:
        nonlocal place
        if shape[1:] == (1, 1):  # stochastic depth, whose rates differ
            return rng.random(shape) < keep
        place = 0 if len(shape) == 4 else place + 1
        if (place, shape) not in drawn:
            drawn[place, shape] = rng.random(shape) < keep
        return drawn[place, shape]

    return self.taps(weights, images, draw=draw)


def one_key_for_two_devices(self: Port, weights: Any, images: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def draw(shape: Shape, keep: float) -> np.ndarray:
        half = rng.random((shape[0] // 2, *shape[1:])) < keep
        return np.concatenate([half, half])

    return self.taps(weights, images, draw=draw)


def by_the_share_kept(x: Tensor, rate: float) -> Tensor:
    """Stochastic depth divided by the share that was kept, not by the probability to keep: in no catalogue."""
    kept = x.new_empty((len(x), 1, 1)).bernoulli_(1 - rate)
    return x * kept / kept.mean()


def computed_again(kind: type[nn.Module], keeping_state: bool = False) -> Target:
    """A part under activation checkpointing; unless it keeps the generator's state, the backward pass drops others."""

    def forward(self: nn.Module, *arguments: Any, **taps: Any) -> Tensor:
        taps_of_first = iter([taps])

        def compute(*arguments: Any) -> Tensor:
            return kind.forward(self, *arguments, **next(taps_of_first, {}))

        return checkpoint(compute, *arguments, use_reentrant=False, preserve_rng_state=keeping_state)

    return forward_of(kind, forward)


BY_THE_SHARE_KEPT = path(by_the_share_kept)

DROPOUT: dict[str, Target] = {
    "the same masks on two devices": doing(drawn=one_key_for_two_devices),
    "the same masks in every layer": doing(drawn=one_key_for_all_layers),
    "the same masks for every seed": doing(drawn=seeded_anew),
    "never dropped": left_out(lambda model: [*parts(model, nn.Dropout), *parts(model, DropPath)]),
    "no dropout after the embedding": left_out(lambda model: [model.dropout]),
    "no dropout of tokens": left_out(
        lambda model: [
            model.dropout,
            *(part.projection_dropout for part in parts(model, Attention)),
            *(part.dropout for part in parts(model, MLP)),
        ]
    ),
    "rate taken for keep": keeping_rate,
    "mask shared by all images": dropout(lambda x, rate: drop(x, (1, *x.shape[1:]), 1 - rate)),
    "mask shared by all tokens": dropout(of_tokens(lambda shape: (shape[0], 1, shape[2]))),
    "mask shared by all features": dropout(of_tokens(lambda shape: (*shape[:2], 1))),
    "attention mask shared": written(shared_attention_mask),
    "no dropout of attention": left_out(lambda model: [part.attention_dropout for part in parts(model, Attention)]),
    "one dropout in the MLP": forward_of(MLP, one_in_mlp),
    "dropout not scaled": dropout(lambda x, rate: drop(x, tuple(x.shape), 1 - rate, scaled=False)),
    "stochastic depth by batch": path(lambda x, rate: drop(x, (1, 1, 1), 1 - rate)),
    "no stochastic depth": left_out(all_of(DropPath)),
    "layers drawn again in the backward pass": computed_again(TransformerEncoder),
    "MLPs drawn again in the backward pass": computed_again(MLP),
    "stochastic depth not scaled": path(lambda x, rate: drop(x, (len(x), 1, 1), 1 - rate, scaled=False)),
}
