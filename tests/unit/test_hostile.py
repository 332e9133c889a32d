"""Short cuts that ordinary values hide, written as code: each passes the forward rungs, and hostile values show it."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from conformance.cases import Case
from conformance.compare import causes_first
from conformance.flax_side import FlaxSide
from conformance.ladder import Ladder
from conformance.rungs import BY_NAME
from conformance.torch_side import Twin

CASE = Case("twin:digits", num_layers=2)
GROUND = Ladder(FlaxSide, name="target", cases=[CASE]).ground(CASE)
ATTENTION = "encoder/00/attention"


class Swap(TorchFunctionMode):
    """PyTorch with another function in the place of one of its own, in this thread."""

    def __init__(self, name, function):
        super().__init__()
        self.name, self.function = name, function

    def __torch_function__(self, func, types, args=(), kwargs=None):
        swapped = getattr(func, "__name__", "") == self.name
        return (self.function if swapped else func)(*args, **(kwargs or {}))


def with_other(name, function):
    class Other(Twin):
        def taps(self, *arguments, **named):
            with Swap(name, function):
                return super().taps(*arguments, **named)

    return lambda config: Other(config, "cpu")


def clipped(scores, dim):
    return torch._softmax(scores.clamp(-50, 50), dim, False)


def capped_below(scores, dim):
    """An online softmax that begins with a maximum of zero."""
    powers = torch.exp(scores - scores.amax(dim, keepdim=True).clamp(min=0))
    return powers / powers.sum(dim, keepdim=True)


def without_maximum(scores, dim):
    powers = torch.exp(scores)
    return powers / powers.sum(dim, keepdim=True)


def least_variance(x, shape, weight, bias, eps):
    """A variance of no less than 1e-4, where an epsilon was meant."""
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance.clamp(min=1e-4) + eps) * weight + bias


def without_nan(x, approximate="none"):
    return torch.nan_to_num(F.gelu(x, approximate=approximate))


def masked(x, approximate="none"):
    """Multiplied by a mask of ones, summed over the batch on the way."""
    return F.gelu(x, approximate=approximate) + 0 * x.sum(0, keepdim=True)


WRONG = {
    "clipped scores": (with_other("softmax", clipped), f"saturated attention: {ATTENTION}"),
    "no maximum": (with_other("softmax", without_maximum), f"scores far from zero, float32: {ATTENTION}"),
    "a maximum of zero at least": (with_other("softmax", capped_below), f"scores far from zero, float32: {ATTENTION}"),
    "least variance": (with_other("layer_norm", least_variance), f"low-variance tokens: {ATTENTION}"),
    "no NaN": (with_other("gelu", without_nan), "one image of NaN: encoder/00/mlp"),
    "NaN for all": (with_other("gelu", masked), "one image of NaN: encoder/00/mlp"),
}


def climbed(target, rung):
    return BY_NAME[rung].climb(dataclasses.replace(GROUND, target=target))


@pytest.mark.parametrize("short_cut", WRONG)
def test_a_short_cut_that_ordinary_values_hide_is_caught_where_it_is(short_cut):
    target, place = WRONG[short_cut]

    for rung in ("function", "float64", "float32"):
        assert all(diff.passes for diff in climbed(target, rung))

    assert causes_first(climbed(target, "hostile"))[0].tap == place
