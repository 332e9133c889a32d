"""A line an epoch stays; a bar is there only on a terminal, and says that XLA compiles."""

import sys

import pytest

from tests.unit.test_checkpoint import SETTINGS
from vit_flax import progress
from vit_flax.progress import Display, duration, tell

RECORD = {"epoch": 7, "train/loss": 1.41972, "train/acc": 0.49, "val/acc": 0.51, "seconds": 0.5}
LINE = "epoch   7/300  loss 1.42  acc 0.4900  val 0.5100  40 images/s  2 min 26 s left\n"


class Terminal:
    """A stderr that says it is a terminal."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_without_a_terminal_there_is_a_line_an_epoch_and_nothing_else(capsys):
    with Display(SETTINGS, 0) as display:
        display.steps(20, 1.0)
        display.epoch(RECORD)
    assert capsys.readouterr() == ("", LINE)


def test_on_a_terminal_a_bar_says_that_xla_compiles_until_the_first_steps(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Display(SETTINGS, 0) as display:
        assert "compiling" in terminal.text
        display.steps(20, 1.0)
        display.epoch(RECORD)
        assert LINE in terminal.text
        terminal.text = ""
        display.bar.refresh()
        assert "loss=1.0000" in terminal.text
        assert "compiling" not in terminal.text


def test_a_run_that_goes_on_begins_its_bar_where_it_was(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Display(SETTINGS, 3) as display:
        assert display.bar.n == 3 * SETTINGS.recipe.batch_size


def test_the_time_left_follows_the_last_epoch_and_what_came_with_it(capsys, monkeypatch):
    times = iter((100.0, 104.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with Display(SETTINGS, 0, "seed 3") as display:
        display.epoch(RECORD)
        display.epoch(RECORD | {"epoch": 298})
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"seed 3 {LINE.strip()}"
    assert second.endswith("images/s  8 s left")


def test_after_the_last_epoch_no_time_is_left(capsys):
    with Display(SETTINGS, 0) as display:
        display.epoch(RECORD | {"epoch": 300})
    assert capsys.readouterr().err.endswith("images/s\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    ((0.4, "0 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (9600, "2 h 40 min"), (360000, "100 h 0 min")),
)
def test_durations_are_told_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_sentence_goes_to_stderr(capsys):
    tell("all is well")
    assert capsys.readouterr() == ("", "vit-flax: all is well\n")
