"""What others wrote, on one line that any terminal and any file can hold."""

import pytest

from conformance.printable import MOST, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve ×", "naïve ×"),
        ("\x1b[31mred\n", "\\x1b[31mred\\n"),
        ("half \ud800", "half \\ud800"),
        ("\0", "\\x00"),
        ("", ""),
    ],
)
def test_what_cannot_be_shown_is_escaped_and_the_rest_left(text, shown):
    assert printable(text) == shown
    printable(text).encode()


def test_what_is_too_long_is_cut_and_says_so():
    assert printable("a" * (MOST + 7)) == f"{'a' * MOST}… (7 characters more)"
