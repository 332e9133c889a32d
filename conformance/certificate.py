"""The certificate of a weight map: which key holds which leaf, and that nothing is lost, doubled or moved on the way.

    python -m conformance.certificate timm article        # the table of one layout for one preset

The probes are weights of which every entry is a number of its own: where one strays, whatever the shapes, it is seen.
"""

import dataclasses
import sys
from collections.abc import Callable

import numpy as np

from conformance.port import TWIN
from conformance.weights import unique_weights
from vit_flax.config import ViTConfig, one_of, preset
from vit_flax.layouts import LAYOUTS, Layout
from vit_flax.weights import Weights, canonical_shapes

KNOWN = {"twin": TWIN} | LAYOUTS


@dataclasses.dataclass(frozen=True)
class Line:
    """One array of the layout: the leaves it holds, and how its axes lie."""

    key: str
    leaves: tuple[str, ...]
    pattern: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Certificate:
    layout: str
    lines: tuple[Line, ...]
    bijection: bool  # every entry of the probes is in the layout's arrays once, and there is nothing else
    each_leaf_once: bool
    round_trip: bool  # there and back again, bit for bit

    @property
    def holds(self) -> bool:
        return self.bijection and self.each_leaf_once and self.round_trip

    def __str__(self) -> str:
        width = max(len(line.key) for line in self.lines)
        table = [f"{line.key:{width}}  {line.pattern:26}  {', '.join(line.leaves)}" for line in self.lines]
        claims = ("bijection", "each_leaf_once", "round_trip")
        verdicts = [f"{claim.replace('_', ' ')}: {'yes' if getattr(self, claim) else 'NO'}" for claim in claims]
        return "\n".join([*table, f"{self.layout}: {len(self.lines)} arrays; {'; '.join(verdicts)}"])


def certify(
    layout: Layout,
    config: ViTConfig,
    write: Callable[[Weights, ViTConfig], dict[str, np.ndarray]] | None = None,
    read: Callable[[dict[str, np.ndarray], ViTConfig], Weights] | None = None,
) -> Certificate:
    """The certificate of a layout for one config; `write` and `read` are its own unless given."""
    probes = unique_weights(config)
    rules = layout.rules(config)
    arrays = (write or layout.write)(probes, config)
    back = (read or layout.read)(arrays, config)
    sent, arrived = (np.sort(np.concatenate([x.ravel() for x in d.values()])) for d in (probes, arrays))
    leaves = [leaf for rule in rules for leaf in rule.leaves]
    return Certificate(
        layout.name,
        tuple(Line(rule.foreign, rule.leaves, rule.pattern, arrays[rule.foreign].shape) for rule in rules),
        bijection=np.array_equal(sent, arrived),
        each_leaf_once=sorted(leaves) == sorted(canonical_shapes(config)),
        round_trip=all(np.array_equal(back[name], leaf) for name, leaf in probes.items()),
    )


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    name, subject = sys.argv[1:]
    try:
        one_of("layout", name, KNOWN)
        certificate = certify(KNOWN[name], preset(subject))
    except ValueError as error:
        sys.exit(str(error))
    print(certificate)
    sys.exit(not certificate.holds)


if __name__ == "__main__":
    main()
