"""Known ways for two ViTs to differ, as data. One catalogue serves twice: planted in a target, a fault proves that the
suite can fail; planted in the reference, it is a hypothesis of why a target differs (`conformance/diagnose.py`).

A fault changes what a side is built with, what goes into one of its methods or what comes out of it, never its code,
so it can be planted in any implementation: dropping a bias and zeroing it are the same function of the image.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from conformance.compare import in_data_order
from conformance.rungs import Target
from conformance.sides import Draw, Taps
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights, canonical_shapes

Around = Callable[..., Any]  # (the side's own method, the side's config, its arguments): in the method's place
Edit = Callable[[Weights, ViTConfig], Weights]


@dataclasses.dataclass(frozen=True)
class Anew:
    """A change that remembers its calls: made anew for each side that it is planted in."""

    make: Callable[[], Around]


@dataclasses.dataclass(frozen=True)
class Recomputed:
    """A change of `taps` that computes some of them anew, from the weights and the config that the side is given."""

    around: Around

    def __call__(self, *arguments: Any, **named: Any) -> Taps:
        return self.around(*arguments, **named)


TAKE_WEIGHTS = ("taps", "gradients", "drawn", "train", "noisy_losses", "evaluate", "averages")


def always(config: ViTConfig) -> bool:
    return True


def same_config(config: ViTConfig) -> ViTConfig:
    return config


@dataclasses.dataclass(frozen=True, eq=False)  # each is itself, and may be a key
class Fault:
    """One known difference: the rung and the place it must be caught at, and where such a thing is seen."""

    name: str
    rung: str
    place: str  # on any config: `first_place` says what may stand for a part of it
    seen: str
    config: Callable[[ViTConfig], ViTConfig] = same_config
    around: Mapping[str, Around | Anew] = dataclasses.field(default_factory=dict)  # in the place of methods of the side
    applies: Callable[[ViTConfig], bool] = always  # to a ViT of this config: some have no final norm to skip
    draw: Callable[[Draw], Draw] | None = None  # how the side asks for its random draws
    float32_inside: bool = False  # a part is computed in float32: a fault in float64 alone

    def first_place(self, config: ViTConfig) -> str:
        """Where it must be caught on a ViT of this config.

        In `place`, `{last}` stands for the number of the last layer, `{leaf}`, `{kernel}` and `{scale}` for the first
        leaf, kernel and norm's scale in data order, `{last_scale}` for the last of the scales. `*` stands for what
        chance decides: which of several statistics of a leaf exceeds its limit first, or after how many steps.
        """
        leaves = in_data_order(canonical_shapes(config))
        kernels, scales = ([leaf for leaf in leaves if leaf.endswith(kind)] for kind in ("/kernel", "/scale"))
        return self.place.format(
            last=f"{config.num_layers - 1:02}",
            leaf=leaves[0],
            kernel=kernels[0],
            scale=scales[0],
            last_scale=scales[-1],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """From process to process by name, as functions within functions cannot be pickled."""
        from conformance.catalogue import fault_named  # which is made of faults

        return fault_named, (self.name,)


def is_at(place: str | None, expected: str) -> bool:
    """Whether a fault that is expected there was caught there."""
    return place is not None and fnmatchcase(place, expected)


class Planted:
    """A target with one fault in it. It is given sound weights, as any target is, and has the target's capabilities."""

    def __init__(self, fault: Fault, target: Target, config: ViTConfig) -> None:
        self.fault, self.config = fault, config
        self.faulty_config = fault.config(config)
        self.side = target(self.faulty_config)
        self.around = {name: x.make() if isinstance(x, Anew) else x for name, x in fault.around.items()}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.side, name)
        if self.faulty_config != self.config and name in TAKE_WEIGHTS:
            method = functools.partial(_with_leaves_of, self.faulty_config, method)
        if self.faulty_config != self.config and name == "held":  # what it has no place for, it leaves alone
            method = functools.partial(_beside, functools.partial(_with_leaves_of, self.faulty_config, method))
        if self.fault.draw is not None and name == "drawn":
            return functools.partial(_drawn, self.taps)
        if self.fault.draw is not None and name in ("taps", "gradients"):
            method = functools.partial(_drawing, self.fault.draw, method)
        around = self.around.get(name)
        return method if around is None else functools.partial(around, method, self.config)


def planted(fault: Fault, target: Target) -> Target:
    return functools.partial(Planted, fault, target)


def _with_leaves_of(config: ViTConfig, method: Around, weights: Weights, *arguments: Any, **named: Any) -> Any:
    return method({name: weights[name] for name in canonical_shapes(config)}, *arguments, **named)


def _beside(method: Around, weights: Weights) -> Weights:
    return weights | method(weights)


def _drawing(
    change: Callable[[Draw], Draw], method: Around, *arguments: Any, draw: Draw | None = None, **named: Any
) -> Any:
    return method(*arguments, **named) if draw is None else method(*arguments, draw=change(draw), **named)


def _drawn(taps: Around, weights: Weights, images: np.ndarray, seed: int) -> Taps:
    """Draws of the side's own cannot be changed from outside: these are made here, for the side to ask for."""
    rng = np.random.default_rng(seed)
    return taps(weights, images, draw=lambda shape, keep: rng.random(shape) < keep)


def edited(edit: Edit) -> dict[str, Around]:
    """The side computes with other weights than it is given."""

    def around(method: Around, config: ViTConfig, weights: Weights, *arguments: Any, **named: Any) -> Any:
        return method(edit(weights, config), *arguments, **named)

    return dict.fromkeys(TAKE_WEIGHTS, around)


@dataclasses.dataclass(frozen=True)
class Site:
    """A tap that is about to be changed, and what its block could know."""

    tap: str
    value: np.ndarray
    taps: Taps  # those before it: as given, or else the side's own
    weights: Weights
    config: ViTConfig


def recomputed(change: Callable[[Site], np.ndarray], touches: Callable[[str], bool]) -> dict[str, Around]:
    """The side computes something else at some taps: `change(site)`."""

    @still
    def around(method: Around, config: ViTConfig, weights: Weights, images: Any, given: Taps | None = None) -> Taps:
        known: Taps = dict(given or {})
        taps = dict(method(weights, images, given=given))  # an answer may be remembered: not to be changed
        for tap in (tap for tap in data_order(config) if tap in taps and touches(tap)):
            taps[tap] = change(Site(tap, taps[tap], taps | known, weights, config))
            if given is None:  # what follows goes on with the changed value
                known[tap] = taps[tap]
                taps = method(weights, images, given=known) | known
        return taps

    return {"taps": Recomputed(around)}


def tapped(change: Callable[[str, Any, Taps], Any], touches: Callable[[str], bool]) -> dict[str, Around]:
    """As `recomputed`, where no weights are needed: `change(tap, value, what came before it)`."""
    return recomputed(lambda site: change(site.tap, site.value, site.taps), touches)


def still(around: Around) -> Around:
    """Around `taps` as in evaluation: under draws, which have rungs of their own, the side stays as it is."""

    def unless_drawing(method: Around, config: ViTConfig, *arguments: Any, draw: Any = None, **named: Any) -> Any:
        if draw is not None:
            return method(*arguments, draw=draw, **named)
        return around(method, config, *arguments, **named)

    return unless_drawing


def data_order(config: ViTConfig) -> list[str]:
    """Every tap that a ViT of this config may have."""
    parts = ("/attention", "/middle", "/mlp", "")
    layers = [f"encoder/{i:02}{part}" for i in range(config.num_layers) for part in parts]
    return ["patches", "embedding", *layers, "norm", "logits"]


def is_kernel(name: str) -> bool:
    """Whether a leaf decays, in vit_flax and in its twin."""
    return name.endswith("kernel")


def recipe_changed(capability: str, **changes: Any) -> dict[str, Around]:
    """The side trains by another recipe than it is given: a field's value, or a function of the recipe."""

    def around(method: Around, config: ViTConfig, *arguments: Any) -> Any:
        *before, recipe = arguments
        values = {name: change(recipe) if callable(change) else change for name, change in changes.items()}
        return method(*before, recipe.replace(**values))

    return {capability: around}
