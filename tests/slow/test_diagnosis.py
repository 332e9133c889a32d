"""Every fault is named in every habitat; of two at once both are, in nine of ten random pairs."""

import pytest

from conformance.mutation import (
    HABITATS,
    faults_in,
    kill,
    one_hides_the_other,
    pair_named,
    random_pairs,
    remembering,
    sound,
)

PAIRS = 60
SHARE = 0.9


@pytest.mark.slow
@pytest.mark.parametrize("habitat", HABITATS)
def test_every_fault_is_caught_at_its_place_and_named(habitat, pytestconfig):
    ground = remembering(sound(HABITATS[habitat], data=pytestconfig.option.data))
    kills = [kill(fault, ground) for fault in faults_in(ground.config)]

    missed = [k for k in kills if not (k.placed and k.diagnosed)]
    lines = [f"{k.fault.name}: {k.caught_by} at {k.place}, {', '.join(k.named) or 'no known cause'}" for k in missed]
    print(
        f"{habitat}: {len(kills) - len(missed)} of {len(kills)} faults caught at their place and named",
        *lines,
        sep="\n",
    )
    assert not lines


@pytest.mark.slow
def test_pairs_of_faults_are_named(pytestconfig):
    ground = sound(data=pytestconfig.option.data)
    missed, hidden = [], 0

    for first, second in random_pairs(PAIRS):
        named = pair_named(first, second, ground)
        if named < {first.name, second.name} and one_hides_the_other(first, second, ground):
            hidden += 1
        elif named != {first.name, second.name}:
            missed.append(f"{first.name} + {second.name}: {', '.join(sorted(named)) or 'no known cause'}")

    seen = PAIRS - hidden
    print(f"{seen - len(missed)} of {seen} pairs named; in {hidden} one hides the other", *missed, sep="\n")
    assert seen - len(missed) >= SHARE * seen
