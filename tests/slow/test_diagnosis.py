"""Two faults at once are still told apart: at least nine of ten random pairs, each by both of its names."""

import pytest

from conformance.mutation import pair_named, random_pairs, sound

PAIRS = 60
SHARE = 0.9


@pytest.mark.slow
def test_pairs_of_faults_are_named(pytestconfig):
    ground = sound(data=pytestconfig.option.data)
    missed = []

    for first, second in random_pairs(PAIRS):
        named = pair_named(first, second, ground)
        if named != {first.name, second.name}:
            missed.append(f"{first.name} + {second.name}: {', '.join(sorted(named)) or 'no known cause'}")

    print(f"{PAIRS - len(missed)} of {PAIRS} pairs named", *missed, sep="\n")
    assert PAIRS - len(missed) >= SHARE * PAIRS
