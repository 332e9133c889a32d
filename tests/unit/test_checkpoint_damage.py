"""Where a checkpoint is damaged the one before is taken, and a sentence says so."""

import re
import shutil
from pathlib import Path

import pytest
from orbax.checkpoint import StandardCheckpointer

from tests.unit.test_checkpoint import epoch_of, history_of, kept_in, save_all, state_after
from vit_flax.checkpoint import CheckpointError


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file):
    file.write_bytes(b"")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    save_all(folder, 0.6, 0.5)
    return folder


@pytest.mark.parametrize("harm", (truncate, flip, empty, Path.unlink), ids=lambda harm: harm.__name__)
def test_where_any_file_is_damaged_the_checkpoint_before_is_taken_and_a_sentence_says_so(tmp_path, whole, harm, capfd):
    folder = tmp_path / "run"
    files = [file.relative_to(whole) for file in (whole / "4").rglob("*") if file.is_file()]
    assert sum((whole / file).stat().st_size for file in files) > 4 * 64 * 32  # the arrays are among them
    for file in files:
        shutil.copytree(whole, folder)
        harm(folder / file)
        assert epoch_of(folder, "last") == 1
        sentence = rf"vit-flax: {folder}/4 cannot be read and looks damaged \(.*\): taking {folder}/2 instead\n"
        assert re.fullmatch(sentence, capfd.readouterr().err)  # and not a word from the background
        shutil.rmtree(folder)


def test_damage_to_the_best_makes_that_of_the_checkpoint_before_the_best(tmp_path, capsys):
    save_all(tmp_path, 0.5, 0.6, 0.4)
    shutil.rmtree(tmp_path / "4/state")
    assert epoch_of(tmp_path, "last") == 3
    with pytest.raises(CheckpointError, match="/4 cannot be read and looks damaged"):
        epoch_of(tmp_path, "best")
    save_all(tmp_path / "rising", 0.5, 0.6, 0.7)
    shutil.rmtree(tmp_path / "rising/6/state")
    assert epoch_of(tmp_path / "rising", "best") == 2
    assert "rising/6 cannot be read and looks damaged" in capsys.readouterr().err


def test_where_all_are_damaged_the_newest_is_named(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "run")
    for step in (2, 4):
        flip(tmp_path / f"run/{step}/progress.json")
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/run/4 cannot be read and looks damaged"):
        epoch_of(tmp_path / "run", "last")


def test_a_damaged_checkpoint_is_replaced_by_the_run_that_went_on_from_the_one_before(tmp_path, whole, capsys):
    shutil.copytree(whole, tmp_path / "run")
    flip(tmp_path / "run/4/progress.json")
    with kept_in(tmp_path / "run") as checkpoints:
        checkpoints.save(state_after(4), history_of(0.6, 0.5))
    assert epoch_of(tmp_path / "run", "last") == 2
    assert capsys.readouterr().err == ""


def test_an_error_that_says_nothing_still_names_the_folder(whole, monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    with kept_in(whole) as checkpoints:
        monkeypatch.setattr(StandardCheckpointer, "restore", fail)
        with pytest.raises(CheckpointError, match=re.escape(str(whole / "4"))):
            checkpoints.restore("last", state_after(0))
