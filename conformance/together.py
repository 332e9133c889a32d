"""Several faults planted in one side, in whichever order they are named: what one changes, the others compute with.

So those that vary the blocks vary them together; what computes taps anew is planted inside what edits weights, and this
inside what builds the side from another config.
"""

import dataclasses
from collections.abc import Iterable

from conformance.faults import Fault, Recomputed, planted, same_config
from conformance.rungs import Target
from conformance.variations import Variation, Varied, beside, varied


def with_faults(target: Target, faults: Iterable[Fault]) -> Target:
    """The target with all of these."""
    for fault in sorted(_joined(faults), key=_outwards):
        target = planted(fault, target)
    return target


def _outwards(fault: Fault) -> int:
    if fault.config is not same_config:
        return 2
    return 0 if isinstance(fault.around.get("taps"), Recomputed) else 1


def _joined(faults: Iterable[Fault]) -> list[Fault]:
    """The same, but one fault in the place of those that vary the blocks, unless two of them vary the same."""
    joined: list[Fault] = []
    for fault in faults:
        for place, other in enumerate(joined):
            if both := _variation_of(other, fault):
                joined[place] = dataclasses.replace(other, name=f"{other.name}, {fault.name}", around=varied(both))
                break
        else:
            joined.append(fault)
    return joined


def _variation_of(one: Fault, other: Fault) -> Variation | None:
    first, second = one.around.get("taps"), other.around.get("taps")
    if isinstance(first, Varied) and isinstance(second, Varied):
        return beside(first.variation, second.variation)
    return None
