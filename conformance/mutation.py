"""The suite proves itself: every known fault is planted in `vit_flax`, and must be caught at its place and be named.

On more than one small model: what a fault shows depends on the shape it is planted in.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from conformance.catalogue import FAULTS
from conformance.compare import causes_first
from conformance.diagnose import diagnose, diagnose_all
from conformance.faults import Fault, is_at, planted
from conformance.flax_side import FlaxSide
from conformance.images import load_batch
from conformance.remember import Remembered
from conformance.replay import BYTES_KEPT, Shown
from conformance.rungs import BY_NAME, RUNGS, Ground, Rung
from conformance.together import with_faults
from conformance.torch_side import twin
from conformance.weights import random_weights
from vit_flax.config import ViTConfig, preset

_DIGITS, _ARTICLE = preset("digits"), preset("article")
# Small models that together have every part. The first is where a fault is planted if it need not be planted in all.
HABITATS: dict[str, ViTConfig] = {
    "oblong, in colour": _DIGITS.replace(image_size=(16, 24), channels=3, patch_size=8, num_layers=3),
    "square, grey": _DIGITS,
    "deep": _DIGITS.replace(
        image_size=(8, 12),
        channels=3,
        embed_dim=24,
        hidden_dim=32,
        mlp_dim=64,
        num_layers=8,
        num_heads=2,
        norm_epsilon=1e-5,
        activation="gelu_tanh",
        attention_dropout_on="output",
    ),
    "tied": _ARTICLE.replace(
        image_size=(16, 16), patch_size=8, embed_dim=48, hidden_dim=64, mlp_dim=128, num_layers=3, num_heads=4
    ),
}
CONFIG = HABITATS["oblong, in colour"]
# By habitat and name: faults that survive, and why. A record with any other is refused by a test.
SURVIVES: dict[tuple[str, str], str] = {}
IMAGES = 16
PROGRAMS_KEPT = 16  # of so many plantings: each leaves some 30 MB compiled, and few compile what another did
_plantings = itertools.count()


@dataclasses.dataclass(frozen=True)
class Kill:
    """What became of a planted fault."""

    fault: Fault
    expected: str  # where it begins, in this model
    caught_by: str | None  # the first rung that failed
    place: str | None  # where
    severity: float  # the worst error there, as a multiple of its limit
    named: tuple[str, ...]  # the diagnosis
    seconds: float

    @property
    def placed(self) -> bool:
        return self.caught_by == self.fault.rung and is_at(self.place, self.expected)

    @property
    def diagnosed(self) -> bool:
        return self.named == (self.fault.name,)


def faults_in(config: ViTConfig) -> list[Fault]:
    """Those that can be planted in a model of this config."""
    return [fault for fault in FAULTS if fault.applies(config)]


def habitat(fault: Fault) -> str:
    """The one that a fault is planted in where one must do: those of a rung take turns."""
    own = [other for other in FAULTS if other.rung == fault.rung]
    names = [name for name, config in HABITATS.items() if fault.applies(config) and (name, fault.name) not in SURVIVES]
    return names[own.index(fault) % len(names)]


def sound(config: ViTConfig = CONFIG, data: str | None = None) -> Ground:
    """vit_flax against the twin, as they are."""
    images = load_batch(data, IMAGES, config.image_size, config.channels).images
    target, reference = functools.cache(FlaxSide), functools.cache(lambda c: twin("", c, "cpu"))
    return Ground(target, reference, config, random_weights(config, seed=0), images)


def remembering(ground: Ground) -> Ground:
    """The same, with a reference that remembers what it answered: every fault's replays ask it the same."""
    return dataclasses.replace(
        ground, reference_target=functools.cache(lambda config: Remembered(ground.reference_target(config), BYTES_KEPT))
    )


def kill(fault: Fault, ground: Ground, shown: Shown | None = None) -> Kill:
    """Climb with the fault planted to the first rung that fails, of those it needs and could change; and say why.

    Plantings in one ground may share `shown`, and save most of the time that it takes to say why.
    """
    _make_room()
    start = time.perf_counter()
    faulty = dataclasses.replace(ground, target=planted(fault, ground.target))
    expected = fault.first_place(ground.config)
    for rung in _rungs_up_to(fault, ground.config):
        if failures := causes_first(rung.climb(faulty)):
            named = tuple(cause.name for cause in diagnose(faulty, rung, shown=shown).causes)
            first = failures[0]
            return Kill(fault, expected, rung.name, first.tap, first.severity, named, time.perf_counter() - start)
    return Kill(fault, expected, None, None, 0.0, (), time.perf_counter() - start)


def pair_named(first: Fault, second: Fault, ground: Ground) -> set[str]:
    """With two faults planted, every cause that is named on the way up the rungs of both."""
    _make_room()
    faulty = dataclasses.replace(ground, target=with_faults(ground.target, (first, second)))
    found = diagnose_all(faulty, _rungs_of((first, second), ground.config))
    return {cause.name for diagnosis in found.values() for cause in diagnosis.causes}


def pair_told(first: Fault, second: Fault, ground: Ground) -> dict[str, Any]:
    """What a pair was named, and whether no more could be seen of it."""
    planted_names, named = sorted((first.name, second.name)), sorted(pair_named(first, second, ground))
    hidden = named != planted_names and one_hides_the_other(first, second, ground)
    return {"planted": [first.name, second.name], "named": named, "one hides the other": hidden}


def one_hides_the_other(first: Fault, second: Fault, ground: Ground) -> bool:
    """Whether every error on the way up the rungs of both is, to the last bit, the same with one of them alone."""
    rungs = _rungs_of((first, second), ground.config)

    def errors(*faults: Fault) -> list[tuple[str, str, float]]:
        faulty = dataclasses.replace(ground, target=with_faults(ground.target, faults))
        return [(diff.tap, diff.mode, diff.error) for rung in rungs for diff in rung.climb(faulty)]

    both = errors(first, second)
    return both in (errors(first), errors(second))


def _make_room() -> None:
    """What earlier plantings compiled is dropped, now and then: JAX keeps it for ever."""
    if next(_plantings) % PROGRAMS_KEPT == 0:
        jax.clear_caches()


def random_pairs(count: int, seed: int = 0) -> list[tuple[Fault, Fault]]:
    """Of those that can be planted in one side."""
    rng, faults = np.random.default_rng(seed), faults_in(CONFIG)
    pairs: list[tuple[Fault, Fault]] = []
    while len(pairs) < count:
        first, second = (faults[i] for i in rng.choice(len(faults), 2, replace=False))
        if not of_two_functions(first, second):
            pairs.append((first, second))
    return pairs


def of_two_functions(first: Fault, second: Fault) -> bool:
    """One fault changes the forward pass and leaves the gradients as they were, and rungs of the other compare those.

    No code does that: its gradients are of the function that it computes. A fault is planted around code.
    """

    def forward_alone(fault: Fault) -> bool:
        return fault.rung == "float64" and "taps" in fault.around and "gradients" not in fault.around

    def uses_gradients(fault: Fault) -> bool:
        return any("gradients" in rung.capabilities for rung in _rungs_up_to(fault, CONFIG))

    return (forward_alone(first) and uses_gradients(second)) or (forward_alone(second) and uses_gradients(first))


def _rungs_of(faults: Iterable[Fault], config: ViTConfig) -> list[Rung]:
    names = {rung.name for fault in faults for rung in _rungs_up_to(fault, config)}
    return [rung for rung in RUNGS if rung.name in names]


def _rungs_up_to(fault: Fault, config: ViTConfig) -> list[Rung]:
    """The fault's own rung, and those below it that use anything the fault changes: the others are as without it."""
    needed = needed_by(fault.rung)
    return [
        rung for rung in RUNGS if rung.name == fault.rung or (rung.name in needed and _touches(fault, rung, config))
    ]


def _touches(fault: Fault, rung: Rung, config: ViTConfig) -> bool:
    return bool(set(rung.capabilities) & set(fault.around)) or fault.config(config) != config


@functools.cache
def needed_by(name: str) -> frozenset[str]:
    """A rung and all that it stands on."""
    return frozenset({name}).union(*(needed_by(need) for need in BY_NAME[name].needs))


def score(kills: list[Kill]) -> dict[str, Any] | None:
    """The suite's own mutation score; None where no fault was planted."""
    if not kills:
        return None
    return {
        "faults": len(kills),
        "killed": sum(k.caught_by is not None for k in kills),
        "placed": sum(k.placed for k in kills),
        "diagnosed": sum(k.diagnosed for k in kills),
        "seconds": sum(k.seconds for k in kills),
    }
