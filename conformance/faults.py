"""Known ways for two ViTs to differ, as data. One catalogue serves twice: planted in a target, a fault proves that the
suite can fail; planted in the reference, it is a hypothesis of why a target differs (`conformance/diagnose.py`).

A fault changes what a side is built with, what goes into one of its methods or what comes out of it, never its code,
so it can be planted in any implementation: dropping a bias and zeroing it are the same function of the image.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from conformance.rungs import Target
from conformance.sides import Taps
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights, canonical_shapes

Around = Callable[..., Any]  # (the side's own method, the side's config, its arguments): in the method's place
Edit = Callable[[Weights, ViTConfig], Weights]

TAKE_WEIGHTS = ("taps", "gradients", "drawn", "train")


def always(config: ViTConfig) -> bool:
    return True


@dataclasses.dataclass(frozen=True, eq=False)  # each is itself, and may be a key
class Fault:
    """One known difference: the rung and the place it must be caught at, and where such a thing is seen.

    In `place`, `{last}` stands for the number of the last layer. What `around` replaces is a method of the side.
    """

    name: str
    rung: str
    place: str
    seen: str
    config: Callable[[ViTConfig], ViTConfig] = lambda config: config
    around: dict[str, Around] = dataclasses.field(default_factory=dict)
    applies: Callable[[ViTConfig], bool] = always  # to a ViT of this config: some have no final norm to skip

    def first_place(self, config: ViTConfig) -> str:
        return self.place.format(last=f"{config.num_layers - 1:02}")


class Planted:
    """A target with one fault in it. It is given sound weights, as any target is, and has the target's capabilities."""

    def __init__(self, fault: Fault, target: Target, config: ViTConfig) -> None:
        self.fault, self.config = fault, config
        self.faulty_config = fault.config(config)
        self.side = target(self.faulty_config)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.side, name)
        if self.faulty_config != self.config and name in TAKE_WEIGHTS:
            method = functools.partial(_with_leaves_of, self.faulty_config, method)
        if self.faulty_config != self.config and name == "held":  # what it has no place for, it leaves alone
            method = functools.partial(_beside, functools.partial(_with_leaves_of, self.faulty_config, method))
        around = self.fault.around.get(name)
        return method if around is None else functools.partial(around, method, self.config)


def planted(fault: Fault, target: Target) -> Target:
    return functools.partial(Planted, fault, target)


def _with_leaves_of(config: ViTConfig, method: Around, weights: Weights, *arguments: Any, **named: Any) -> Any:
    return method({name: weights[name] for name in canonical_shapes(config)}, *arguments, **named)


def _beside(method: Around, weights: Weights) -> Weights:
    return weights | method(weights)


def edited(edit: Edit) -> dict[str, Around]:
    """The side computes with other weights than it is given."""

    def around(method: Around, config: ViTConfig, weights: Weights, *arguments: Any, **named: Any) -> Any:
        return method(edit(weights, config), *arguments, **named)

    return dict.fromkeys(TAKE_WEIGHTS, around)


def tapped(change: Callable[[str, Any, Taps], Any], touches: Callable[[str], bool]) -> dict[str, Around]:
    """The side computes something else at some taps: `change(tap, value, what came before it)`."""

    @still
    def around(method: Around, config: ViTConfig, weights: Weights, images: Any, given: Taps | None = None) -> Taps:
        known: Taps = dict(given or {})
        taps = dict(method(weights, images, given=given))  # an answer may be remembered: not to be changed
        for tap in (tap for tap in data_order(config) if tap in taps and touches(tap)):
            taps[tap] = change(tap, taps[tap], taps | known)
            if given is None:  # what follows goes on with the changed value
                known[tap] = taps[tap]
                taps = method(weights, images, given=known) | known
        return taps

    return {"taps": around}


def still(around: Around) -> Around:
    """Around `taps` as in evaluation: under draws, which have rungs of their own, the side stays as it is."""

    def unless_drawing(method: Around, config: ViTConfig, *arguments: Any, draw: Any = None, **named: Any) -> Any:
        if draw is not None:
            return method(*arguments, draw=draw, **named)
        return around(method, config, *arguments, **named)

    return unless_drawing


def data_order(config: ViTConfig) -> list[str]:
    layers = [
        f"encoder/{i:02}{part}" for i in range(config.num_layers) for part in ("/attention", "/middle", "/mlp", "")
    ]
    return ["patches", "embedding", *layers, "norm", "logits"]


def recipe_changed(capability: str, **changes: Any) -> dict[str, Around]:
    """The side trains by another recipe than it is given: a field's value, or a function of the recipe."""

    def around(method: Around, config: ViTConfig, *arguments: Any) -> Any:
        *before, recipe = arguments
        values = {name: change(recipe) if callable(change) else change for name, change in changes.items()}
        return method(*before, recipe.replace(**values))

    return {capability: around}
