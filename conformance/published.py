"""Tolerances that other projects publish, put to the same catalogue: what each would have let through.

The sources are named as the tolerances were read there: data of others, no limits of ours. Weights are freshly
initialised, as in such tests.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.catalogue import FAULTS
from conformance.faults import Fault, planted
from conformance.gradients import random_upstream
from conformance.rungs import Ground
from conformance.training import OPTIMIZERS

Gate = Callable[[np.ndarray, np.ndarray], bool]  # (ours, theirs): whether it lets them pass as equal


def within(absolute: float, relative: float = 0.0) -> Gate:
    return lambda ours, theirs: bool((np.abs(ours - theirs) <= absolute + relative * np.abs(theirs)).all())


def cosine_above(least: float) -> Gate:
    def gate(ours: np.ndarray, theirs: np.ndarray) -> bool:
        a, b = ours.ravel().astype(np.float64), theirs.ravel().astype(np.float64)
        return bool(a @ b / np.sqrt((a @ a) * (b @ b)) > least)

    return gate


def mean_within(limit: float) -> Gate:
    return lambda ours, theirs: bool(abs(ours.mean() - theirs.mean()) <= limit)


@dataclasses.dataclass(frozen=True)
class Published:
    gate: str
    source: str
    compares: str  # logits, gradients or parameters
    equal: Gate


PUBLISHED = (
    Published("logits, atol 1e-1", "bonsai's ViT, resized positions", "logits", within(1e-1)),
    Published("logits, atol 5e-2", "bonsai's ViT", "logits", within(5e-2)),
    Published("logits, atol 4e-2", "transformers, PyTorch against Flax, 2021", "logits", within(4e-2)),
    Published("logits, atol 1e-3", "a common choice", "logits", within(1e-3)),
    Published("logits, atol 1e-5", "transformers, absolute", "logits", within(1e-5)),
    Published("logits, cosine above 0.99", "msprobe's first stage; tt-metal#23027", "logits", cosine_above(0.99)),
    Published("logits, equal means", "PaDiff's default compare_mode", "logits", mean_within(1e-3)),
    Published("gradients, rtol = atol = 1e-2", "Levanter", "gradients", within(1e-2, relative=1e-2)),
    Published(
        "parameters after AdamW, rtol 1e-3, atol 2e-3",
        "Levanter, at rate 1e-3",
        "parameters",
        within(2e-3, relative=1e-3),
    ),
)
GIVEN = {
    "logits": "float64",
    "gradients": "gradients float64",
    "parameters": "optimizer",
}  # whose faults a gate is given


def let_through(ground: Ground) -> list[dict[str, Any]]:
    """For each published gate: how many of the faults of its kind it was given, and those it passed as equal."""
    faults = [fault for fault in FAULTS if fault.applies(ground.config) and _in_reach(fault)]
    outputs = {
        what: {fault.name: _outputs(ground, fault, what) for fault in faults if fault.rung == rung}
        for what, rung in GIVEN.items()
    }
    rows = []
    for published in PUBLISHED:
        given = outputs[published.compares]
        passed = [name for name, sides in given.items() if published.equal(*sides)]
        rows.append({"gate": published.gate, "source": published.source, "faults": len(given), "let_through": passed})
    return rows


def _in_reach(fault: Fault) -> bool:
    """Of the optimizer's faults, those of AdamW: of the others these gates say nothing."""
    return fault.rung != "optimizer" or fault.place.startswith("adamw")


def _outputs(ground: Ground, fault: Fault, what: str) -> tuple[np.ndarray, np.ndarray]:
    faulty = planted(fault, ground.target)(ground.config)
    weights = ground.candidate.initial(0)
    if what == "logits":
        ours, theirs = (side.taps(weights, ground.images)["logits"] for side in (faulty, ground.reference))
        return ours, theirs
    upstream = {
        "logits": random_upstream((len(ground.images), ground.config.num_classes), "float32") / len(ground.images)
    }
    gradients = [side.gradients(weights, ground.images, upstream).parameters for side in (faulty, ground.reference)]
    if what == "parameters":
        plan = OPTIMIZERS["adamw"].replace(learning_rate=1e-3)
        pairs = zip((faulty, ground.reference), gradients, strict=True)
        gradients = [side.update(weights, gradient, None, plan)[0] for side, gradient in pairs]
    ours, theirs = (np.concatenate([leaf.ravel() for _, leaf in sorted(leaves.items())]) for leaves in gradients)
    return ours, theirs
