"""Every fault is named in every habitat; of two at once both are, in nine of ten random pairs."""

import pytest

from conformance.mutation import HABITATS, faults_in, kill, pair_told, random_pairs, remembering, sound
from conformance.proofs import PAIRS, sorted_pairs

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

    pairs = sorted_pairs([pair_told(first, second, ground) for first, second in random_pairs(PAIRS)])

    seen = PAIRS - len(pairs["hidden"])
    print(f"{len(pairs['both'])} of {seen} pairs named; in {len(pairs['hidden'])} one hides the other")
    for pair in pairs["missed"]:
        print(f"{' + '.join(pair['planted'])}: {', '.join(pair['named']) or 'no known cause'}")
    assert len(pairs["both"]) >= SHARE * seen
