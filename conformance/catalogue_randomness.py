"""Faults of dropout and stochastic depth: in what is drawn, and in what is made of it.

Where a port leaves a draw out, or does not scale what it keeps, its numbers are those of the sound model with some
leaves smaller: a mask is exact, but a side always divides what it keeps by the probability to keep.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from conformance.faults import Around, Fault
from conformance.sides import Draw, Gradients, Taps
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights, canonical_shapes

Shape = tuple[int, ...]
Factors = Callable[[ViTConfig], dict[str, float]]


# What drops where nothing should


def drop_when_evaluated(method: Around, config: ViTConfig, *arguments: Any, draw: Any = None, **named: Any) -> Any:
    """Dropout after the embedding also without `draw`, where the config has any."""
    taps = method(*arguments, draw=draw, **named) if draw is not None else method(*arguments, **named)
    if draw is not None or not config.dropout:
        return taps
    kept = np.random.default_rng(0).random(taps["embedding"].shape) >= config.dropout
    return taps | {"embedding": np.where(kept, taps["embedding"] / (1 - config.dropout), 0.0)}


# What is drawn


def of_one_seed(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, seed: int) -> Taps:
    taps: Taps = method(weights, images, 0)
    return taps


def halves_alike(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, seed: int) -> Taps:
    """The second half of the images drops what the first half does."""
    taps: Taps = method(weights, images, seed)
    half = len(images) // 2
    return {tap: np.concatenate([x[:half], x[:half], x[2 * half :]]) for tap, x in taps.items()}


def of_first_layer(method: Around, config: ViTConfig, *arguments: Any) -> Taps:
    """Every layer drops what the first one does; of what else is in a tap nothing is compared."""
    taps: Taps = method(*arguments)
    first = {part: taps[f"encoder/00/{part}"] for part in ("attention", "mlp")}
    return taps | {f"encoder/{i:02}/{part}": x for i in range(config.num_layers) for part, x in first.items()}


def shared(group: Callable[[Shape], Shape], touches: Callable[[Shape], bool]) -> Callable[[Draw], Draw]:
    """Masks of a smaller shape, each number of which serves many."""

    def change(draw: Draw) -> Draw:
        def asked(shape: Shape, keep: float) -> np.ndarray:
            return np.broadcast_to(draw(group(shape), keep), shape) if touches(shape) else draw(shape, keep)

        return asked

    return change


def of_attention(shape: Shape) -> bool:
    return len(shape) == 4


def of_path(shape: Shape) -> bool:
    return len(shape) == 3 and shape[1:] == (1, 1)


def of_tokens(shape: Shape) -> bool:
    return len(shape) == 3 and not of_path(shape)


def first_missing(draw: Draw) -> Draw:
    """The first draw is not made, and everything is kept."""
    pending = [True]

    def asked(shape: Shape, keep: float) -> np.ndarray:
        return np.ones(shape, bool) if pending and pending.pop() else draw(shape, keep)

    return asked


def first_in_each_mlp_missing(draw: Draw) -> Draw:
    """Of the two masks of an MLP the first, which is the second mask of tokens after one of attention."""
    since_attention = [-np.inf]

    def asked(shape: Shape, keep: float) -> np.ndarray:
        if of_attention(shape):
            since_attention[0] = 0
        elif of_tokens(shape):
            since_attention[0] += 1
        missing = of_tokens(shape) and since_attention[0] == 2
        return np.ones(shape, bool) if missing else draw(shape, keep)

    return asked


Asked = list[tuple[Shape, float]]  # of a draw: the shapes, and the probabilities to keep


def drawn_again(of: Callable[[Asked], Asked]) -> dict[str, Around]:
    """The backward pass draws some masks of each layer again, from the last one to the first."""

    def around(method: Around, config: ViTConfig, *arguments: Any, draw: Draw | None = None, **named: Any) -> Gradients:
        if draw is None:
            return method(*arguments, **named)
        asked: Asked = []

        def noting(shape: Shape, keep: float) -> np.ndarray:
            asked.append((shape, keep))
            return draw(shape, keep)

        found: Gradients = method(*arguments, draw=noting, **named)
        for layer in reversed(_by_layer(asked)):
            for shape, keep in of(layer):
                draw(shape, keep)
        return found

    return {"gradients": around}


def of_mlp(layer: Asked) -> Asked:
    """The two of tokens that follow on those of attention and its projection."""
    return [asked for asked in layer if of_tokens(asked[0])][1:]


def _by_layer(asked: Asked) -> list[Asked]:
    """All but the embedding's; a layer begins with attention's."""
    layers: list[Asked] = []
    for shape, keep in asked[1:]:
        if of_attention(shape):
            layers.append([])
        layers[-1].append((shape, keep))
    return layers


# What is made of it


def smaller(leaves: Factors, taps: Factors) -> dict[str, Around]:
    """While it draws, the side has these leaves times a factor; taps that show it have it taken out again."""

    def scaled(weights: Weights, config: ViTConfig) -> Weights:
        factors = leaves(config)
        return {name: x * factors.get(name, 1.0) for name, x in weights.items()}

    def undone(found: Taps, config: ViTConfig) -> Taps:
        return found | {tap: found[tap] / factor for tap, factor in taps(config).items()}

    def around_taps(
        method: Around,
        config: ViTConfig,
        weights: Weights,
        images: np.ndarray,
        *,
        draw: Draw | None = None,
        **more: Taps,
    ) -> Taps:
        if draw is None:
            return method(weights, images, **more)
        return undone(method(scaled(weights, config), images, draw=draw, **more), config)

    def around_drawn(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, seed: int) -> Taps:
        return undone(method(scaled(weights, config), images, seed), config)

    def around_gradients(
        method: Around,
        config: ViTConfig,
        weights: Weights,
        images: np.ndarray,
        upstream: Taps,
        *,
        draw: Draw | None = None,
        **more: Taps,
    ) -> Gradients:
        if draw is None:
            return method(weights, images, upstream, **more)
        found: Gradients = method(scaled(weights, config), images, upstream, draw=draw, **more)
        inner = {tap: found.inputs[tap] * factor for tap, factor in taps(config).items()}
        outer = {name: found.parameters[name] * factor for name, factor in leaves(config).items()}
        return Gradients(found.inputs | inner, found.parameters | outer)

    return {"taps": around_taps, "drawn": around_drawn, "gradients": around_gradients}


def of_embedding(config: ViTConfig) -> dict[str, float]:
    """What makes the embedding smaller by what it would be divided by."""
    projected = "patches/conv" if config.embed_dim is None else "embedding/projection"
    names = (f"{projected}/kernel", f"{projected}/bias", "embedding/cls_token", "embedding/position_embedding")
    return dict.fromkeys(names, 1 - config.dropout)


def seen_in_patches(config: ViTConfig) -> dict[str, float]:
    return {"patches": 1 - config.dropout} if config.embed_dim is None else {}


def of_hidden(config: ViTConfig) -> dict[str, float]:
    return dict.fromkeys(_leaves(config, "mlp/fc2/kernel"), 1 - config.dropout)


def of_all_dropout(config: ViTConfig) -> dict[str, float]:
    keep, keep_attention = 1 - config.dropout, 1 - config.attention_dropout
    factors = of_embedding(config)
    for ending, factor in (
        ("attention/value/kernel", keep_attention),
        ("attention/value/bias", keep_attention),
        ("attention/projection/kernel", keep),
        ("attention/projection/bias", keep),
        ("mlp/fc2/kernel", keep**2),  # of what comes in, and of what goes out
        ("mlp/fc2/bias", keep),
    ):
        factors |= dict.fromkeys(_leaves(config, ending), factor)
    return factors


def _leaves(config: ViTConfig, ending: str) -> list[str]:
    return [name for name in canonical_shapes(config) if name.startswith("encoder/") and name.endswith(ending)]


def of_paths(config: ViTConfig) -> dict[str, float]:
    endings = [f"{part}/{kind}" for part in ("attention/projection", "mlp/fc2") for kind in ("kernel", "bias")]
    keeps = 1 - np.linspace(0, config.drop_path, config.num_layers)
    return {f"encoder/{i:02}/{ending}": keep for i, keep in enumerate(keeps.tolist()) for ending in endings}


def seen_in_branches(config: ViTConfig) -> dict[str, float]:
    keeps = 1 - np.linspace(0, config.drop_path, config.num_layers)
    return {f"encoder/{i:02}/{part}": keep for i, keep in enumerate(keeps.tolist()) for part in ("attention", "mlp")}


def without(*rates: str) -> Callable[[ViTConfig], ViTConfig]:
    return lambda config: config.replace(**dict.fromkeys(rates, 0.0))


def rates_for_keeps(config: ViTConfig) -> ViTConfig:
    """Keep and drop exchanged, wherever anything is dropped."""
    rates = {name: getattr(config, name) for name in ("dropout", "attention_dropout", "drop_path")}
    return config.replace(**{name: 1 - rate for name, rate in rates.items() if rate})


def has_paths(config: ViTConfig) -> bool:
    return config.num_layers > 1  # the first layer's rate is zero


# The draws in order: the embedding's; then, layer by layer, attention's, its projection's, the path's (from the second
# layer on), the MLP's two, and again the path's.
at_first = partial(Fault, rung="randomness", place="draw 00")
in_backward = partial(Fault, rung="randomness", place="the gradient's draw *")
at_path = partial(Fault, rung="randomness", place="draw 07", applies=has_paths)

RANDOMNESS = (
    at_first(
        name="never dropped",
        seen="deterministic=True",
        config=without("dropout", "attention_dropout", "drop_path"),
    ),
    at_first(
        name="no dropout after the embedding",
        seen="pos_drop left out",
        draw=first_missing,
        around=smaller(of_embedding, seen_in_patches),
    ),
    at_first(
        name="no dropout of tokens",
        seen="one of two rates that is not passed on",
        config=without("dropout"),
    ),
    at_first(
        name="rate taken for keep",
        seen="keep_prob of TensorFlow 1",
        config=rates_for_keeps,
    ),
    at_first(
        name="mask shared by all images",
        seen="noise of x.shape[1:], broadcast_dims",
        draw=shared(lambda shape: (1, *shape[1:]), lambda shape: not of_path(shape)),
    ),
    at_first(
        name="mask shared by all tokens",
        seen="broadcast_dims=(1,), spatial dropout",
        draw=shared(lambda shape: (shape[0], 1, shape[2]), of_tokens),
    ),
    at_first(
        name="mask shared by all features",
        seen="whole tokens dropped, Dropout1d",
        draw=shared(lambda shape: (*shape[:-1], 1), of_tokens),
    ),
    Fault(
        name="the same masks for every seed",
        rung="randomness",
        place="embedding, alike along seed",
        seen="a constant key, a generator seeded anew at every call",
        around={"drawn": of_one_seed},
    ),
    Fault(
        name="the same masks on two devices",
        rung="randomness",
        place="images with a mask had before",
        seen="a key that was not folded with the device's number",
        around={"drawn": halves_alike},
    ),
    Fault(
        name="the same masks in every layer",
        rung="randomness",
        place="encoder/00/attention, alike with the layer above",
        seen="nn.scan or nn.remat without split_rngs",
        around={"drawn": of_first_layer},
        applies=lambda c: c.num_layers > 1,
    ),
    Fault(
        name="attention mask shared",
        rung="randomness",
        place="draw 01",
        seen="broadcast_dropout=True is Flax's default",
        draw=shared(lambda shape: (1, 1, *shape[2:]), of_attention),
    ),
    Fault(
        name="no dropout of attention",
        rung="randomness",
        place="draw 01",
        seen="a rate that is not passed on",
        config=without("attention_dropout"),
    ),
    Fault(
        name="one dropout in the MLP",
        rung="randomness",
        place="draw 03",
        seen="nothing dropped between its two layers",
        draw=first_in_each_mlp_missing,
        around=smaller(of_hidden, lambda config: {}),
        applies=lambda c: c.mlp_dim != c.hidden_dim,
    ),
    Fault(
        name="dropout not scaled",
        rung="randomness",
        place="embedding",
        seen="kept values not divided by keep",
        around=smaller(of_all_dropout, seen_in_patches),
    ),
    at_path(
        name="stochastic depth by batch",
        seen="one draw for all images",
        draw=shared(lambda shape: (1, 1, 1), of_path),
    ),
    at_path(
        name="no stochastic depth",
        seen="a rate that is not passed on",
        config=without("drop_path"),
    ),
    Fault(
        name="stochastic depth not scaled",
        rung="randomness",
        place="encoder/01/middle",
        seen="scale_by_keep=False",
        around=smaller(of_paths, seen_in_branches),
        applies=lambda c: has_paths(c) and not c.share_layers,
    ),
    in_backward(
        name="layers drawn again in the backward pass",
        seen="checkpointing with preserve_rng_state=False, or with a key made inside",
        around=drawn_again(lambda layer: layer),
    ),
    in_backward(
        name="MLPs drawn again in the backward pass",
        seen="checkpointing of the MLPs with preserve_rng_state=False",
        around=drawn_again(of_mlp),
    ),
    Fault(
        name="drops at evaluation",
        rung="randomness",
        place="in evaluation, embedding",
        seen="F.dropout(x, p) without training=self.training",
        around={"taps": drop_when_evaluated},
        applies=lambda c: not c.dropout,  # else the function rung sees it before
    ),
)
