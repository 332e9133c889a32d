"""Where PyTorch and optax follow different rules by design: which rule each has, and what tells the two apart.

The reference follows optax's rule, and then both sides agree to 1e-12; the fault of that name is the other rule, and
is caught. A test holds both halves of that for each.
"""

import dataclasses

from conformance.catalogue import fault_named
from conformance.faults import Fault


@dataclasses.dataclass(frozen=True)
class Rule:
    what: str
    torch: str
    optax: str
    source: str
    other: str  # the fault that is the rule not followed

    @property
    def fault(self) -> Fault:
        return fault_named(self.other)


_TORCH, _OPTAX = (
    "https://github.com/pytorch/pytorch/blob/main/torch",
    "https://github.com/google-deepmind/optax/blob/main/optax",
)

RULES = (
    Rule(
        "clipping by global norm",
        "gradients times max_norm / (norm + 1e-6), where that is below 1",
        "gradients times max_norm / norm, where norm is above max_norm",
        f"{_TORCH}/nn/utils/clip_grad.py and {_OPTAX}/transforms/_clipping.py",
        "clipped by norm and epsilon",
    ),
    Rule(
        "what AdamW decays",
        "every parameter of a group; groups are the caller's",
        "every parameter, unless a mask says which",
        f"{_TORCH}/optim/adamw.py and {_OPTAX}/_src/alias.py",
        "decay of everything",
    ),
    Rule(
        "AdamW's weight decay by default",
        "1e-2",
        "1e-4",
        f"{_TORCH}/optim/adamw.py and {_OPTAX}/_src/alias.py",
        "decay of the other framework",
    ),
    Rule(
        "weight decay in Adam",
        "added to the gradient, so it goes through the averages (L2)",
        "decoupled, and only in adamw",
        f"{_TORCH}/optim/adam.py and {_OPTAX}/_src/alias.py",
        "decay through the gradient",
    ),
    Rule(
        "which step a schedule is asked for",
        "the scheduler is stepped after the optimizer: called before it, every rate is a step early",
        "the count before the update, from zero",
        f"{_TORCH}/optim/lr_scheduler.py and {_OPTAX}/_src/transform.py",
        "schedule a step early",
    ),
    Rule(
        "label smoothing",
        "an argument of cross_entropy, a / C to every class",
        "targets made beforehand, a / C to every class",
        f"{_TORCH}/nn/functional.py and {_OPTAX}/losses/_smoothing.py",
        "labels not smoothed",
    ),
)
