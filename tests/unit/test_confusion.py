"""What is taken for what is counted by class, and said."""

import numpy as np
import pytest
from PIL import Image

from vit_flax.confusion import by_class, confusion, draw

LABELS = np.array([0, 0, 0, 1, 1, 2])
FOUND = np.array([0, 0, 1, 1, 0, 2])
CLASSES = ("cat", "dog", "horse", "ship")


def test_rows_are_the_classes_and_columns_what_they_were_taken_for():
    counts = confusion(LABELS, FOUND, 4)

    np.testing.assert_array_equal(counts, [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(confusion(FOUND, LABELS, 4), [[2, 1, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4])


def test_each_class_has_a_line():
    assert by_class(confusion(LABELS, FOUND, 4), CLASSES) == [
        "  cat    0.6667 of 3  most often taken for dog: 1",
        "  dog    0.5000 of 2  most often taken for cat: 1",
        "  horse  1.0000 of 1",
        "  ship   none of 0",
    ]


def test_it_is_drawn(tmp_path):
    draw(confusion(LABELS, FOUND, 4), CLASSES, "animals", tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert min(picture.size) > 300
