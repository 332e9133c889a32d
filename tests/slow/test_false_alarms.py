"""The gates do not cry wolf: sound models, many seeds of the weights, no failure."""

import pytest

from conformance.alarms import swept
from conformance.mutation import HABITATS, sound

# On each habitat: as many as an hour allows. The longer sweep is a record, written by `python -m conformance.alarms`.
SEEDS = {
    "float32": 1000,
    "float32 offset": 1000,
    "bfloat16": 1000,
    "float16": 1000,
    "gradients float32": 300,
    "gradients bfloat16": 300,
    "float64": 100,
    "gradients float64": 100,
    "trajectory float32": 30,
}


@pytest.mark.slow
@pytest.mark.parametrize("habitat", HABITATS)
@pytest.mark.parametrize("rung", SEEDS)
def test_no_false_alarm(rung, habitat, pytestconfig):
    ground = sound(HABITATS[habitat], data=pytestconfig.option.data)

    found = swept(rung, ground, range(SEEDS[rung]))

    alarms = [str(worst) for worst in found if worst.is_alarm]
    worst = max(found, key=lambda worst: worst.share)
    print(f"{rung}, {habitat}, {len(found)} seeds: {len(alarms)} false alarms; worst: {worst}")
    assert not alarms, f"{len(alarms)} in {len(found)} seeds: {alarms[:3]}"
