"""Elementary faults: each leaf, and its gradient, changed in each of the ways in which one goes wrong.

A known fault is something that ports have been seen to do. These only say what is done to which leaf, and are tried
where no known fault helps. As nothing but equality to the float64 limit counts, they are true of the target wherever
they explain a block, however odd they are.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from conformance.catalogue_attention import many_heads, many_layers, split_heads_last
from conformance.catalogue_norms import EPSILONS, has_epsilon_not, with_epsilon
from conformance.catalogue_rounding import gradient
from conformance.faults import Around, Fault, edited
from conformance.leaf_edits import each_layer, leaf, transposed
from conformance.rounding import to_bits
from conformance.sides import Gradients
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights, canonical_shapes

Array = np.ndarray
Change = Callable[[Array, ViTConfig], Array]

IN_A_LAYER = (
    "norm1/scale",
    "norm1/bias",
    "attention/query/kernel",
    "attention/query/bias",
    "attention/key/kernel",
    "attention/value/kernel",
    "attention/value/bias",
    "attention/projection/kernel",
    "attention/projection/bias",
    "norm2/scale",
    "norm2/bias",
    "mlp/fc1/kernel",
    "mlp/fc1/bias",
    "mlp/fc2/kernel",
    "mlp/fc2/bias",
)  # all but the keys' bias, which softmax does not see
BEFORE = (
    "patches/conv/kernel",
    "patches/conv/bias",
    "embedding/projection/kernel",
    "embedding/projection/bias",
    "embedding/cls_token",
    "embedding/position_embedding",
)
AFTER = ("norm/scale", "norm/bias", "head/kernel", "head/bias")
PLACES = {
    "patches": "patches",
    "embedding": "embedding",
    "norm1": "encoder/00/attention",
    "attention": "encoder/00/attention",
    "norm2": "encoder/00/mlp",
    "mlp": "encoder/00/mlp",
    "norm": "norm",
    "head": "logits",
}  # by the first part of a leaf's name

SCALED: dict[str, Change] = {
    "dropped": lambda x, c: np.zeros_like(x),
    "doubled": lambda x, c: 2 * x,
    "halved": lambda x, c: x / 2,
    "negated": lambda x, c: -x,
    "in bfloat16": lambda x, c: to_bits(x, 8),
    "in float16": lambda x, c: to_bits(x, 11),
}
REVERSED: dict[str, Change] = {"backwards": lambda x, c: x[..., ::-1].copy()}
CHANGES: dict[str, dict[str, Change]] = {
    "kernel": SCALED | REVERSED | {"with its inputs backwards": lambda x, c: x[..., ::-1, :].copy()},
    "bias": SCALED | REVERSED,
    "scale": SCALED | REVERSED | {"dropped": lambda x, c: np.ones_like(x)},
    "cls_token": SCALED | REVERSED,
    "position_embedding": SCALED | {"in the opposite order": lambda x, c: x[:, ::-1].copy()},
}
OF_IMAGES: dict[str, Change] = {
    "upside down": lambda x, c: x[::-1].copy(),
    "mirrored": lambda x, c: x[:, ::-1].copy(),
    "turned by half a circle": lambda x, c: x[::-1, ::-1].copy(),
}
HEADS: dict[str, Change] = {
    "backwards": lambda x, c: _by_head(x, c)[..., ::-1, :].reshape(x.shape),
    "one later": lambda x, c: np.roll(_by_head(x, c), 1, axis=-2).reshape(x.shape),
    "one earlier": lambda x, c: np.roll(_by_head(x, c), -1, axis=-2).reshape(x.shape),
}
SWAPS = (
    ("attention/query", "attention/key"),
    ("attention/key", "attention/value"),
    ("attention/query", "attention/value"),
    ("attention/value", "attention/projection"),
)
# What the catalogue has under a name of its own.
KNOWN = {
    "patches/conv/bias dropped",
    "embedding/cls_token dropped",
    "embedding/position_embedding dropped",
    "attention/query/bias dropped",
    "attention/value/bias dropped",
    "attention/projection/bias dropped",
    "mlp/fc1/bias dropped",
    "mlp/fc2/bias dropped",
    "norm/bias dropped",
    "head/bias dropped",
    "no gradient of embedding/cls_token",
    "no gradient of embedding/position_embedding",
    "no gradient of patches/conv/kernel",
    "gradient of head/kernel negated",
}

elementary = partial(Fault, seen="found by trying every change of every leaf")


def _by_head(x: Array, config: ViTConfig) -> Array:
    return x.reshape(*x.shape[:-1], config.num_heads, config.head_dim)


def _has(*names: str) -> Callable[[ViTConfig], bool]:
    """Whether a ViT has leaves that end so."""

    def has(config: ViTConfig) -> bool:
        return all(any(f"/{leaf}".endswith(f"/{name}") for leaf in canonical_shapes(config)) for name in names)

    return has


def _full(name: str) -> str:
    return f"{{layer}}/{name}" if name in IN_A_LAYER else name


def _place(name: str) -> str:
    return PLACES[name.split("/")[0]]


def _leaf_faults() -> Iterator[Fault]:
    of_weights = partial(elementary, rung="float64")
    for name in (*BEFORE, *IN_A_LAYER, *AFTER):
        changes = dict(CHANGES[name.split("/")[-1]])
        if name == "patches/conv/kernel":
            changes |= OF_IMAGES
            del changes["with its inputs backwards"]  # colours, reversed: known
        for what, change in changes.items():
            around = leaf(_full(name), change)
            yield of_weights(name=f"{name} {what}", place=_place(name), around=around, applies=_has(name))
    for name in ("attention/key/kernel", "attention/value/kernel"):  # the two others are known
        around = leaf(_full(name), transposed)
        yield of_weights(name=f"{name} not transposed", place=_place(name), around=around)


def _attention_faults() -> Iterator[Fault]:
    of_attention = partial(elementary, rung="float64", place="encoder/00/attention")
    for part in ("query", "key", "value"):
        for what, change in HEADS.items():
            enough = 1 if what == "backwards" else 2  # of two heads all of these are the same
            yield of_attention(
                name=f"attention/{part}, its heads {what}",
                around=each_layer(partial(_of_both, part, change)),
                applies=lambda config, enough=enough: config.num_heads > enough,
            )
        yield of_attention(
            name=f"attention/{part} split into heads in the wrong order",
            around=each_layer(partial(_split_heads_last, part)),
            applies=lambda config: many_heads(config) and config.head_dim > 1,
        )
    for what, change in HEADS.items():
        yield of_attention(
            name=f"attention/projection/kernel, the heads of its inputs {what}",
            around=leaf("{layer}/attention/projection/kernel", partial(_of_inputs, change)),
            applies=many_heads,
        )
    for (a, b), kind in itertools.product(SWAPS, ("kernel", "bias")):
        yield of_attention(
            name=f"{a}/{kind} and {b}/{kind} swapped",
            around=each_layer(partial(_swapped, f"{a}/{kind}", f"{b}/{kind}")),
        )
    for kind in ("scale", "bias"):
        yield of_attention(
            name=f"norm1/{kind} and norm2/{kind} swapped",
            around=each_layer(partial(_swapped, f"norm1/{kind}", f"norm2/{kind}")),
            applies=_has("norm2/scale"),
        )


def _of_both(part: str, change: Change, weights: Weights, layer: str, config: ViTConfig) -> Weights:
    names = [f"{layer}/attention/{part}/{kind}" for kind in ("kernel", "bias")]
    return {name: change(weights[name], config) for name in names}


def _of_inputs(change: Change, x: Array, config: ViTConfig) -> Array:
    return np.ascontiguousarray(change(np.ascontiguousarray(x.T), config).T)


def _split_heads_last(part: str, weights: Weights, layer: str, config: ViTConfig) -> Weights:
    split = split_heads_last(weights, layer, config)
    return {name: x for name, x in split.items() if f"/{part}/" in name}


def _swapped(a: str, b: str, weights: Weights, layer: str, config: ViTConfig) -> Weights:
    return {f"{layer}/{x}": weights[f"{layer}/{y}"] for x, y in ((a, b), (b, a))}


def _has_in_layers(part: str, config: ViTConfig) -> bool:
    return many_layers(config) and (part != "norm2" or not config.share_norm)


def _layer_faults() -> Iterator[Fault]:
    for part, (what, step) in itertools.product(("norm1", "attention", "norm2", "mlp"), (("before", -1), ("after", 1))):

        def edit(weights: Weights, config: ViTConfig, part: str = part, step: int = step) -> Weights:
            layers = config.num_own_layers
            sources = {f"encoder/{i:02}/{part}/": f"encoder/{(i + step) % layers:02}/{part}/" for i in range(layers)}
            moved: Weights = {}
            for own, other in sources.items():
                moved |= {name: weights[other + name[len(own) :]] for name in weights if name.startswith(own)}
            return weights | moved

        yield elementary(
            name=f"{part} of the layer {what}",
            rung="float64",
            place=PLACES[part],
            around=edited(edit),
            applies=partial(_has_in_layers, part),
        )


def _epsilon_faults() -> Iterator[Fault]:
    for exponent in range(2, 13):
        epsilon = float(f"1e-{exponent}")
        if epsilon not in EPSILONS:
            yield elementary(
                name=f"LayerNorm eps 1e-{exponent}",
                rung="float64",
                place="encoder/00/attention",
                config=with_epsilon(epsilon),
                applies=has_epsilon_not(epsilon),
            )


def averaged(ending: str) -> dict[str, Around]:
    """The gradient of leaves whose names end so is a mean over the images."""

    def around(
        method: Around, config: ViTConfig, weights: Weights, images: Array, *rest: object, **named: object
    ) -> Gradients:
        return gradient(ending, lambda g: g / len(images))["gradients"](method, config, weights, images, *rest, **named)

    return {"gradients": around}


def no_gradient_of_images(method: Around, config: ViTConfig, *arguments: object, **named: object) -> Gradients:
    found: Gradients = method(*arguments, **named)
    return found._replace(inputs=found.inputs | {"images": np.zeros_like(found.inputs["images"])})


def _gradient_faults() -> Iterator[Fault]:
    of_gradients = partial(elementary, rung="gradients float64")
    for name in (*BEFORE, *IN_A_LAYER, *AFTER):
        changed = {
            f"no gradient of {name}": gradient(name, np.zeros_like),
            f"gradient of {name} doubled": gradient(name, lambda g: 2 * g),
            f"gradient of {name} halved": gradient(name, lambda g: g / 2),
            f"gradient of {name} negated": gradient(name, np.negative),
            f"gradient of {name} a mean over the images": averaged(name),
        }
        for what, around in changed.items():
            place = f"encoder/{{last}}/{name}" if name in IN_A_LAYER else name
            yield of_gradients(name=what, place=place, around=around, applies=_has(name))
    yield of_gradients(name="no gradient of images", place="images", around={"gradients": no_gradient_of_images})


ELEMENTARY: tuple[Fault, ...] = tuple(
    fault
    for fault in (
        *_leaf_faults(),
        *_attention_faults(),
        *_layer_faults(),
        *_epsilon_faults(),
        *_gradient_faults(),
    )
    if fault.name not in KNOWN
)
