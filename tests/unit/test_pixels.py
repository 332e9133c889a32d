"""Boxes and pixels that cannot be compared are told in words."""

import numpy as np
import pytest

from conformance import pixels
from conformance.catalogue import fault_named
from conformance.compare import causes_first
from conformance.faults import planted
from conformance.mutation import CONFIG
from conformance.pixels import compare_pixels
from conformance.torch_side import Twin

IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, *CONFIG.image_size, 3))


class Wrong(Twin):
    def __init__(self, method, change):
        super().__init__(CONFIG, "cpu")
        sound = getattr(self, method)
        setattr(self, method, lambda *arguments: change(sound(*arguments)))


def not_a_number(x):
    return np.where(np.arange(x.shape[-1]) == 0, np.nan, x)


WRONG = (
    ("pixels", lambda x: x[:-1], "as they are, grey levels alone: shape (3, 16, 24, 3), expected (4, 16, 24, 3)"),
    ("pixels", not_a_number, "as they are, grey levels alone: NaN or infinity in the candidate"),
    ("crops", lambda x: x[:, :3], "boxes alone: shape (50, 3), expected (50, 4)"),
    ("crops", not_a_number, "boxes alone: NaN or infinity in the candidate"),
    ("crops", lambda x: 0 * x, "boxes alone: a box without a pixel"),
)


@pytest.mark.parametrize(("method", "change", "problem"), WRONG)
def test_what_is_wrong_is_told_in_words(monkeypatch, method, change, problem):
    monkeypatch.setattr(pixels, "DRAWS", 50)
    failures = causes_first(compare_pixels(Wrong(method, change), Twin(CONFIG, "cpu"), IMAGES))
    assert str(failures[0]) == problem


def test_a_ratio_drawn_uniformly_is_seen_by_so_many_draws_and_not_by_a_thousand(monkeypatch):
    uniform = planted(fault_named("ratio of crops drawn uniformly"), lambda config: Twin(config, "cpu"))(CONFIG)

    def failing():
        return [diff.tap for diff in causes_first(compare_pixels(uniform, Twin(CONFIG, "cpu"), IMAGES))]

    assert failing() == ["boxes, ratio"]
    monkeypatch.setattr(pixels, "DRAWS", 1000)
    assert failing() == []
