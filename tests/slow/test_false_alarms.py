"""The gates do not cry wolf: sound models, many seeds of the weights, no failure."""

import dataclasses

import pytest

from conformance.mutation import CONFIG, sound
from conformance.rungs import BY_NAME
from conformance.weights import random_weights

SEEDS = {
    "float32": 1000,
    "gradients float32": 1000,
    "float32 offset": 100,
    "bfloat16": 100,
    "float16": 100,
    "gradients bfloat16": 100,
    "float64": 100,
    "gradients float64": 100,
    "trajectory float32": 30,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_no_false_alarm(name, pytestconfig):
    ground = sound(data=pytestconfig.option.data)
    candidate, reference = ground.candidate, ground.reference
    worst, alarms = 0.0, []

    for seed in range(SEEDS[name]):
        again = dataclasses.replace(ground, weights=random_weights(CONFIG, seed))
        again.__dict__.update(candidate=candidate, reference=reference)  # built once, compiled once
        diff = max(BY_NAME[name].climb(again), key=lambda diff: diff.severity)
        worst = max(worst, diff.severity)
        alarms += [] if diff.passes else [f"seed {seed}: {diff}"]

    print(f"{name}, {SEEDS[name]} seeds: {len(alarms)} false alarms, worst error {worst:.2g} of its limit")
    assert not alarms, f"{len(alarms)} in {SEEDS[name]} seeds: {alarms[:3]}"
