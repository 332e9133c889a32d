"""A case is what it was made as."""

from conformance.cases import Case
from vit_flax.config import PRESETS, preset


def test_a_case_keeps_its_name_whatever_becomes_of_the_presets(monkeypatch):
    case = Case("twin:digits")
    name = str(case)

    monkeypatch.setitem(PRESETS, "digits", preset("digits").replace(num_layers=1))

    assert str(case) == name
    assert str(Case("twin:digits")) != name
