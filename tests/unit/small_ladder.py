"""A pytest plugin for tests of whole sessions: models of one layer, and the rungs that $SMALL_LADDER names.

So a session takes seconds, where all rungs of the smallest model take a minute. In the tests' own process the fixture
`suite` does the same, and takes it back; the processes that a session starts get it from here.
"""

import os

import pytest


def shrink(setattr=setattr, setitem=dict.__setitem__):
    from conformance.cases import Case
    from vit_flax.config import PRESETS, preset

    rungs = os.environ["SMALL_LADDER"].split(",")
    setattr(Case, "climbs", lambda case, rung: rung.name in rungs)
    for name in ("digits", "article"):
        setitem(PRESETS, name, preset(name).replace(num_layers=1))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if os.getpid() != int(os.environ["SMALL_LADDER_TEST"]):
        shrink()
