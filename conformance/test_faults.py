"""The suite can fail: every known fault is caught at its place, and named; and every gate has a fault that trips it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from conformance import tolerances
from conformance.catalogue import FAULTS, fault_named
from conformance.check import assert_taps_match
from conformance.compare import causes_first
from conformance.faults import planted
from conformance.flax_side import FlaxSide
from conformance.ladder import Outcome
from conformance.mutation import CONFIG, HABITATS, faults_in, habitat, kill, remembering, sound
from conformance.rungs import BY_NAME, NAMES
from vit_flax.config import preset
from vit_flax.model import MultiHeadSelfAttention

pytestmark = pytest.mark.suite


@pytest.fixture(scope="module")
def grounds(pytestconfig):
    return {name: remembering(sound(config, pytestconfig.option.data)) for name, config in HABITATS.items()}


@pytest.fixture(scope="module")
def shown():
    """By habitat."""
    return {name: {} for name in HABITATS}


@pytest.fixture(scope="module")
def ground(grounds):
    return next(ground for ground in grounds.values() if ground.config == CONFIG)


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_model_passes_every_gate(name, ground):
    diffs = BY_NAME[name].climb(ground)

    assert_taps_match(Outcome("pass", diffs=diffs), "*")
    if name in ("float64", "gradients float64"):  # rounding and faults are kept well apart
        assert max(diff.severity for diff in diffs) * tolerances.FLOAT64_MARGIN <= 1


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught_at_its_place_and_named(fault, grounds, shown, mutation):
    planted_in = habitat(fault)
    result = kill(fault, grounds[planted_in], shown[planted_in])

    mutation.append(result)
    assert result.placed, f"{result.caught_by}: {result.place}, expected {fault.rung}: {result.expected}"
    assert result.named == (fault.name,)
    if fault.rung == "float64":
        assert result.severity >= tolerances.FLOAT64_MARGIN


def test_every_fault_can_be_planted_and_has_a_name_of_its_own():
    assert {fault for config in HABITATS.values() for fault in faults_in(config)} == set(FAULTS)
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_every_rung_has_a_fault_that_trips_it(ground):
    assert {fault.rung for fault in FAULTS} == set(NAMES) - {"float32 default"}

    bfloat16 = dataclasses.replace(ground, target=planted(fault_named("float32 products in bfloat16"), FlaxSide))
    diffs = BY_NAME["float32 default"].climb(bfloat16)
    assert causes_first(diffs)[0].tap == "patches"


def test_every_part_of_the_model_has_a_fault_that_begins_there():
    parts = {fault.first_place(CONFIG).rsplit("/", 1)[-1] for fault in FAULTS if fault.rung == "float64"}
    assert parts == {"patches", "embedding", "attention", "middle", "mlp", "00", "norm", "logits"}


def test_a_softmax_in_bfloat16_is_caught_where_there_are_tokens_enough(pytestconfig, monkeypatch):
    many = preset("digits").replace(image_size=(64, 64), channels=3, num_layers=1)

    def attention():
        diffs = BY_NAME["bfloat16"].climb(sound(many, pytestconfig.option.data))
        return next(diff for diff in diffs if (diff.tap, diff.mode) == ("encoder/00/attention", "alone"))

    assert attention().passes

    def narrow(scores):
        """Rounded after every operation: left to itself, XLA keeps what it fuses in float32."""
        weights = _bfloat16(jnp.exp(_bfloat16(scores - scores.max(axis=-1, keepdims=True))))
        columns = jnp.moveaxis(weights, -1, 0)
        total, _ = jax.lax.scan(lambda sum_, column: (_bfloat16(sum_ + column), None), 0 * columns[0], columns)
        return weights / total[..., None]

    monkeypatch.setattr(MultiHeadSelfAttention, "softmax", staticmethod(narrow))
    jax.clear_caches()  # which know the sound one
    try:
        assert not attention().passes
    finally:
        jax.clear_caches()


def _bfloat16(x):
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
