"""Limited by float32 inside: said of float32's rounding, and never of other maths that is as small."""

import functools

import numpy as np
import pytest

from conformance.cases import Case
from conformance.flax_side import FlaxSide
from conformance.ladder import Ladder
from vit_flax.config import preset

pytestmark = pytest.mark.suite

CASE = Case("twin:digits", num_layers=2)
CONFIG = preset("digits").replace(num_layers=2)


class Narrow(FlaxSide):
    """Computes in float32 whatever it is asked for."""

    def taps(self, weights, images, given=None, draw=None):
        asked = images.dtype
        arrays = [{name: x.astype(np.float32) for name, x in part.items()} for part in (weights, given or {})]
        taps = super().taps(arrays[0], images.astype(np.float32), arrays[1] or None, draw)
        return {name: x.astype(asked) for name, x in taps.items()}


class OneBlock(FlaxSide):
    """One block's output passes through float32, or bfloat16, in the middle of float64."""

    def __init__(self, config, dtype=np.float32, tap="encoder/00/mlp"):
        super().__init__(config)
        self.dtype, self.tap = dtype, tap

    def taps(self, weights, images, given=None, draw=None):
        taps = dict(super().taps(weights, images, given, draw))
        narrow = taps[self.tap].astype(self.dtype).astype(taps[self.tap].dtype)
        if given is not None:
            return taps | {self.tap: narrow}
        after = super().taps(weights, images, {self.tap: narrow}, draw)
        return dict(after) | {self.tap: narrow}


class OtherEpsilon(FlaxSide):
    """Another model altogether, though as near as float32."""

    def __init__(self, config):
        super().__init__(config.replace(norm_epsilon=config.norm_epsilon + 3e-8))


class Scaled(FlaxSide):
    """Off by a constant as small as float32's rounding."""

    def taps(self, weights, images, given=None, draw=None):
        taps = super().taps(weights, images, given, draw)
        return dict(taps) | {"logits": taps["logits"] * (1 + 5e-8)}


def climb(target):
    ladder = Ladder(target, name="target", cases=[CASE])
    return ladder.outcome(CASE, "float64")


@pytest.mark.parametrize("target", [Narrow, OneBlock], ids=["all of it", "one block"])
def test_rounding_in_float32_is_called_that_and_still_fails(target):
    outcome = climb(target)

    assert (outcome.status, outcome.reason) == ("fail", "float32 inside")
    assert outcome.headline.startswith("limited by float32 inside: off by ")
    assert outcome.diagnosis is None


COARSE = functools.partial(OneBlock, dtype=np.float16)


@pytest.mark.parametrize("target", [COARSE, OtherEpsilon, Scaled], ids=["float16", "another epsilon", "a constant"])
def test_what_is_larger_or_is_no_rounding_is_not(target):
    outcome = climb(target)

    assert (outcome.status, outcome.reason) == ("fail", None)
    assert "float32 inside" not in outcome.headline
