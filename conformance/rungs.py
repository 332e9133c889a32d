"""The rungs of the ladder: what each compares, what it needs to stand on, and what a side must be able to do for it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from conformance.augmentation import compare_augmentation
from conformance.compare import Diff, compare
from conformance.envelope import compare_envelope
from conformance.function import compare_answers, compare_gradient_answers
from conformance.gradients import compare_gradients
from conformance.guard import Guarded
from conformance.hostile import compare_hostile
from conformance.initialisation import compare_initial
from conformance.loop import compare_averages, compare_epochs, compare_evaluation, compare_noise
from conformance.means import with_rough_means
from conformance.pixels import compare_pixels
from conformance.precision import rounded
from conformance.randomness import compare_draws, compare_masked, noisy
from conformance.torch_side import twin
from conformance.training import (
    compare_clipping,
    compare_loss,
    compare_metric,
    compare_narrow_loss,
    compare_optimizers,
    compare_schedule,
    compare_trajectory,
)
from conformance.weights import offset
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights, canonical_shapes

Scope = Literal["model", "gradients", "training"]  # how far a case goes: each includes the one before
SCOPES = get_args(Scope)
SHALLOW = 2  # layers: enough for one to follow another
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
    def candidate(self) -> Guarded:
        return Guarded(self.target(self.config))

    @functools.cached_property
    def reference(self) -> Guarded:
        return Guarded(self.reference_target(self.config))

    @functools.cached_property
    def shallow(self) -> "Ground":
        """The same sides with fewer layers, for what is asked many times or in many shapes.

        Where a side takes no other depth than its own, it is asked as it is.
        """
        config = self.config.replace(num_layers=min(self.config.num_layers, SHALLOW))
        if config == self.config:
            return self
        weights = {name: self.weights[name] for name in canonical_shapes(config)}
        ground = dataclasses.replace(self, config=config, weights=weights)
        try:
            return ground if ground.candidate and ground.reference else self
        except ValueError:
            return self

    @property
    def editable_reference(self) -> Target:
        """The reference; for timm and torchvision, which take only their own configs, our twin."""
        if getattr(self.reference, "draws", False):
            return self.reference_target
        return lambda config: twin("", config, self.reference.device)


@dataclasses.dataclass(frozen=True)
class Rung:
    name: str
    climb: Callable[[Ground], tuple[Diff, ...]]
    capabilities: tuple[str, ...]
    needs: tuple[str, ...] = ()  # lower rungs: where one of them failed, this one would only repeat its news
    scope: Scope = "model"
    gpu_only: bool = False  # elsewhere it is another rung over again
    repeats: bool = False  # it asks the same again on purpose: no answer may be remembered for it
    in_order: bool = False  # each comparison stands on those before it: none is explained by itself


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


def _offset(g: Ground) -> tuple[Diff, ...]:
    rougher = functools.partial(with_rough_means, config=g.config)
    return compare(g.candidate, g.reference, g.config, offset(g.weights), g.images, "float32", rougher).diffs


def _hostile(g: Ground) -> tuple[Diff, ...]:
    few = g.shallow
    return compare_hostile(few.candidate, few.reference, few.config, few.weights, few.images)


def _gradients(g: Ground, precision: str) -> tuple[Diff, ...]:
    return compare_gradients(g.candidate, g.reference, g.config, g.weights, g.images, precision)


def _randomness(g: Ground) -> tuple[Diff, ...]:
    config = noisy(g.config)
    candidate, reference = Guarded(g.target(config)), Guarded(g.editable_reference(config))
    weights, images = rounded(g.weights, "float64"), g.images.astype(np.float64)
    masked = compare_masked(candidate, reference, weights, images)
    if not all(diff.passes for diff in masked):
        return masked
    return *masked, *compare_draws(candidate, reference, config, weights, images)


def _noise(g: Ground) -> tuple[Diff, ...]:
    return compare_noise(g.candidate, Guarded(g.editable_reference(g.config)), g.config, g.weights, g.images)


def _evaluation(g: Ground) -> tuple[Diff, ...]:
    config = noisy(g.config)
    candidate, reference = Guarded(g.target(config)), Guarded(g.editable_reference(config))
    return compare_evaluation(candidate, reference, config, g.weights, g.images)


def _forward_rung(precision: str, gpu_only: bool = False) -> Rung:
    needs = "function" if precision == "float64" else "float64"
    return Rung(precision, functools.partial(_forward, precision=precision), ("taps",), (needs,), gpu_only=gpu_only)


def _gradient_rung(precision: str) -> Rung:
    needs = "gradients function" if precision == "float64" else "gradients float64"
    climb = functools.partial(_gradients, precision=precision)
    return Rung(f"gradients {precision}", climb, ("gradients",), (needs,), scope="gradients")


def _training_rung(
    name: str,
    climb: Callable[[Ground], tuple[Diff, ...]],
    *capabilities: str,
    needs: tuple[str, ...] = (),
    **more: bool,
) -> Rung:
    return Rung(name, climb, capabilities, needs, scope="training", **more)


RUNGS = (
    Rung("weights", _weights, ("held",)),
    _training_rung("pixels", lambda g: compare_pixels(g.candidate, g.reference, g.images), "pixels", "crops"),
    _training_rung("initialisation", lambda g: compare_initial(g.candidate, g.reference), "initial", repeats=True),
    Rung("function", lambda g: compare_answers(g.shallow, g, g.images), ("taps",), ("weights",), repeats=True),
    _forward_rung("float64"),
    _forward_rung("float32"),
    _forward_rung("float32 default", gpu_only=True),
    Rung("float32 offset", _offset, ("taps",), ("float64",), scope="gradients"),
    Rung("hostile", _hostile, ("taps",), ("float64",)),
    _forward_rung("bfloat16"),
    _forward_rung("float16"),
    _training_rung("loss", lambda g: compare_loss(g.candidate, g.reference, g.config), "loss"),
    _training_rung(
        "loss bfloat16",
        lambda g: compare_narrow_loss(g.candidate, g.reference, g.config),
        "loss",
        needs=("loss",),
    ),
    _training_rung("metric", lambda g: compare_metric(g.candidate, g.reference, g.config), "accuracy"),
    Rung("gradients function", compare_gradient_answers, ("gradients",), ("float64",), scope="gradients", repeats=True),
    _gradient_rung("float64"),
    _gradient_rung("float32"),
    _gradient_rung("bfloat16"),
    _training_rung("clipping", lambda g: compare_clipping(g.candidate, g.reference, g.weights), "clip"),
    _training_rung("schedule", lambda g: compare_schedule(g.candidate, g.reference), "rates"),
    _training_rung("optimizer", lambda g: compare_optimizers(g.candidate, g.reference, g.weights), "update"),
    _training_rung("randomness", _randomness, "drawn", needs=("gradients float64",), in_order=True),
    _training_rung(
        "trajectory",
        lambda g: compare_trajectory(g.candidate, g.reference, g.config, g.weights, g.images),
        "train",
        needs=("loss", "gradients float64", "clipping", "schedule", "optimizer"),
        in_order=True,
    ),
    _training_rung(
        "trajectory float32",
        lambda g: compare_envelope(g.candidate, g.reference, g.config, g.weights, g.images),
        "train",
        needs=("trajectory",),
    ),
    _training_rung("epochs", lambda g: compare_epochs(g.candidate, g.reference), "epoch_rows"),
    _training_rung(
        "augmentation",
        lambda g: compare_augmentation(g.candidate, g.reference, g.config),
        "augment",
        in_order=True,
    ),
    _training_rung("noise", _noise, "noisy_losses", "loss", needs=("randomness", "loss")),
    _training_rung(
        "average",
        lambda g: compare_averages(g.candidate, g.reference, g.config, g.weights, g.images),
        "averages",
        needs=("trajectory",),
        in_order=True,
    ),
    _training_rung("evaluation", _evaluation, "evaluate", needs=("float64", "metric")),
)
BY_NAME = {rung.name: rung for rung in RUNGS}
NAMES = tuple(BY_NAME)
PRECISIONS = ("float64", "float32", "float32 default", "bfloat16", "float16")
