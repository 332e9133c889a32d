"""What is no regular file is never opened, and what a library says of one becomes a sentence."""

import os
from pathlib import Path

import pytest

from vit_flax.files import LARGEST_MESSAGE, UNPACKED_FREELY, is_bomb, one_line, why_unreadable

NO_FILES = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (Path.mkdir, "is a folder, a pipe or a device"),
    "pipe": (os.mkfifo, "is a folder, a pipe or a device"),
    "loop": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a folder, a pipe or a device"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_regular_file_is_told(tmp_path, kind):
    make, trouble = NO_FILES[kind]
    make(tmp_path / "it")
    assert trouble in why_unreadable(tmp_path / "it")


def test_a_name_that_no_file_can_have_is_told():
    assert "null" in why_unreadable(Path("a\0b"))
    assert "too long" in why_unreadable(Path("a" * 5000))


def test_a_regular_file_is_readable_and_so_is_a_link_to_it(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert why_unreadable(tmp_path / "file") is None
    assert why_unreadable(tmp_path / "link") is None


@pytest.mark.parametrize(
    ("unpacked", "stored", "bomb"),
    (
        (UNPACKED_FREELY, 1, False),
        (UNPACKED_FREELY + 1, 1, True),
        (10**12, 10**10, False),
        (10**12 + 1, 10**10, True),
    ),
)
def test_a_bomb_unpacks_to_much_and_to_far_more_than_its_size(unpacked, stored, bomb):
    assert is_bomb(unpacked, stored) is bomb


@pytest.mark.parametrize(
    ("error", "words"),
    (
        (ValueError("two\nlines\tand \x1b[31mred"), "two lines and [31mred"),
        (EOFError(), "EOFError"),
        (FileNotFoundError(2, "No such file", "a.png"), "No such file"),
        (ValueError(9 * LARGEST_MESSAGE * "x"), LARGEST_MESSAGE * "x"),
    ),
)
def test_an_error_is_told_on_one_line(error, words):
    assert one_line(error) == words
