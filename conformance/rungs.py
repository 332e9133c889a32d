"""The rungs of the ladder: what each compares, what it needs to stand on, and what a side must be able to do for it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from conformance.compare import Diff, compare
from conformance.envelope import compare_envelope
from conformance.gradients import compare_gradients
from conformance.initialisation import compare_initial
from conformance.pixels import compare_pixels
from conformance.randomness import compare_draws, compare_masked, noisy
from conformance.torch_side import twin
from conformance.training import (
    compare_clipping,
    compare_loss,
    compare_metric,
    compare_optimizers,
    compare_schedule,
    compare_trajectory,
)
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

Scope = Literal["model", "gradients", "training"]  # how far a case goes: each includes the one before
SCOPES = get_args(Scope)
Target = Callable[[ViTConfig], Any]  # a side for a config


@dataclasses.dataclass(frozen=True)
class Ground:
    """What a rung stands on: two ways to build a side, and what the sides are run on."""

    target: Target
    reference_target: Target
    config: ViTConfig
    weights: Weights
    images: np.ndarray

    @functools.cached_property
    def candidate(self) -> Any:
        return self.target(self.config)

    @functools.cached_property
    def reference(self) -> Any:
        return self.reference_target(self.config)


@dataclasses.dataclass(frozen=True)
class Rung:
    name: str
    climb: Callable[[Ground], tuple[Diff, ...]]
    capabilities: tuple[str, ...]
    needs: tuple[str, ...] = ()  # lower rungs: where one of them failed, this one would only repeat its news
    scope: Scope = "model"
    gpu_only: bool = False  # elsewhere it is another rung over again


def _weights(g: Ground) -> tuple[Diff, ...]:
    """Into each side and back again: every leaf, bit for bit."""
    ours, theirs = g.candidate.held(g.weights), g.reference.held(g.weights)
    return tuple(Diff(name, "alone", _changed(ours.get(name), theirs[name]), None, 0.0) for name in g.weights)


def _changed(held: np.ndarray | None, leaf: np.ndarray) -> float:
    """How many entries came back changed: all, where the leaf itself did."""
    if held is None or held.shape != leaf.shape or held.dtype != leaf.dtype:
        return float(leaf.size)
    return float(np.count_nonzero(held != leaf))


def _forward(g: Ground, precision: str) -> tuple[Diff, ...]:
    return compare(g.candidate, g.reference, g.config, g.weights, g.images, precision).diffs


def _gradients(g: Ground, precision: str) -> tuple[Diff, ...]:
    return compare_gradients(g.candidate, g.reference, g.config, g.weights, g.images, precision)


def _randomness(g: Ground) -> tuple[Diff, ...]:
    config = noisy(g.config)
    candidate, reference = g.target(config), _drawing(g)(config)
    wide = {name: leaf.astype(np.float64) for name, leaf in g.weights.items()}
    masked = compare_masked(candidate, reference, wide, g.images.astype(np.float64))
    if not all(diff.passes for diff in masked):
        return masked
    return *masked, *compare_draws(candidate, reference, config, wide, g.images.astype(np.float64))


def _drawing(g: Ground) -> Target:
    """The reference, or for a published model, whose rates of dropout cannot be set as freely, its twin."""
    return g.reference_target if getattr(g.reference, "draws", False) else lambda c: twin("", c, g.reference.device)


RUNGS = (
    Rung("weights", _weights, ("held",)),
    Rung("pixels", lambda g: compare_pixels(g.candidate, g.reference, g.images), ("pixels", "crops"), scope="training"),
    Rung("initialisation", lambda g: compare_initial(g.candidate, g.reference), ("initial",), scope="training"),
    Rung("float64", functools.partial(_forward, precision="float64"), ("taps",), ("weights",)),
    Rung("float32", functools.partial(_forward, precision="float32"), ("taps",), ("float64",)),
    Rung(
        "float32 default",
        functools.partial(_forward, precision="float32 default"),
        ("taps",),
        ("float64",),
        gpu_only=True,
    ),
    Rung("bfloat16", functools.partial(_forward, precision="bfloat16"), ("taps",), ("float64",)),
    Rung("float16", functools.partial(_forward, precision="float16"), ("taps",), ("float64",)),
    Rung("loss", lambda g: compare_loss(g.candidate, g.reference, g.config), ("loss",), scope="training"),
    Rung("metric", lambda g: compare_metric(g.candidate, g.reference, g.config), ("accuracy",), scope="training"),
    Rung(
        "gradients float64",
        functools.partial(_gradients, precision="float64"),
        ("gradients",),
        ("float64",),
        scope="gradients",
    ),
    Rung(
        "gradients float32",
        functools.partial(_gradients, precision="float32"),
        ("gradients",),
        ("gradients float64",),
        scope="gradients",
    ),
    Rung(
        "gradients bfloat16",
        functools.partial(_gradients, precision="bfloat16"),
        ("gradients",),
        ("gradients float64",),
        scope="gradients",
    ),
    Rung("clipping", lambda g: compare_clipping(g.candidate, g.reference, g.weights), ("clip",), scope="training"),
    Rung("schedule", lambda g: compare_schedule(g.candidate, g.reference), ("rates",), scope="training"),
    Rung("optimizer", lambda g: compare_optimizers(g.candidate, g.reference, g.weights), ("update",), scope="training"),
    Rung("randomness", _randomness, ("drawn",), ("gradients float64",), scope="training"),
    Rung(
        "trajectory",
        lambda g: compare_trajectory(g.candidate, g.reference, g.config, g.weights, g.images),
        ("train",),
        ("loss", "gradients float64", "clipping", "schedule", "optimizer"),
        scope="training",
    ),
    Rung(
        "trajectory float32",
        lambda g: compare_envelope(g.candidate, g.reference, g.config, g.weights, g.images),
        ("train",),
        ("trajectory",),
        scope="training",
    ),
)
BY_NAME = {rung.name: rung for rung in RUNGS}
NAMES = tuple(BY_NAME)
PRECISIONS = ("float64", "float32", "float32 default", "bfloat16", "float16")
