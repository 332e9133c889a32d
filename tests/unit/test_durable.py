"""A power loss at any file operation of a save leaves what was before or what is after, whole; it is simulated."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.unit.power_loss import Disk, build, different
from tests.unit.test_checkpoint import check_same, history_of, kept_in, save_all, state_after
from vit_flax import durable
from vit_flax.checkpoint import CheckpointError
from vit_flax.durable import write_json

ACCURACIES = (0.5, 0.6, 0.7, 0.8)  # each is the best so far, so that its save deletes another


def recorded_save(folder, monkeypatch, epochs):
    """The disk during the save after so many epochs."""
    folder.mkdir()
    save_all(folder, *ACCURACIES[: epochs - 1])
    with kept_in(folder) as checkpoints, Disk(folder, monkeypatch) as disk:
        checkpoints.save(state_after(2 * epochs), history_of(*ACCURACIES[:epochs]))
        checkpoints.wait()
    return disk


def epochs_left(folder):
    """The last and the best epoch that come back, and to the bit."""
    found = []
    with kept_in(folder) as checkpoints:
        if checkpoints.newest() is None:
            return [0]
        for which in ("last", "best"):
            state, history, _ = checkpoints.restore(which, state_after(0))
            check_same(state_after(2 * len(history)), state)
            found.append(len(history))
    return found


def check_power_loss(disk, epochs, tmp_path, thorough=False, sample=1):
    cases = different(disk, thorough)
    for i, (before_end, tree) in enumerate(cases):
        if before_end and i % sample:
            continue
        build(tree, tmp_path / f"case{i}")
        left = epochs_left(tmp_path / f"case{i}")
        assert set(left) <= ({epochs - 1, epochs} if before_end else {epochs}), (before_end, left)
    return len(disk.moments), len(cases)


@pytest.mark.parametrize("epochs", (1, 4), ids=("first", "fourth"))
def test_a_power_loss_at_any_file_operation_leaves_the_older_or_the_newer_state(tmp_path, monkeypatch, epochs, capsys):
    disk = recorded_save(tmp_path / "run", monkeypatch, epochs)
    assert {moment.operation for moment in disk.moments} >= {"fsync", "replace", "mkdir"}
    check_power_loss(disk, epochs, tmp_path, sample=8)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("epochs", (1, 2, 3, 4))
def test_a_power_loss_at_any_file_operation_in_thousands_of_cases(tmp_path, monkeypatch, epochs, capsys):
    disk = recorded_save(tmp_path / "run", monkeypatch, epochs)
    moments, cases = check_power_loss(disk, epochs, tmp_path, thorough=True)
    with capsys.disabled():
        print(f"\nsave {epochs}: {moments} moments, {cases} different disks")


def copy(old, new):
    shutil.copytree(old, new)
    shutil.rmtree(old)


def clear_and_rename(old, new):
    for other in new.parent.iterdir():
        if other != old:
            shutil.rmtree(other)
    os.replace(old, new)
    durable.sync(new.parent)


FAULTS = {
    "nothing is synced": {"sync": lambda path: None},
    "only the folder is synced": {"sync_all": lambda folder: durable.sync(folder)},
    "its name is not synced": {"rename": os.replace},
    "it is copied, and the copy not synced": {"rename": copy},
    "the older ones go first": {"rename": clear_and_rename},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_save_that_a_power_loss_can_spoil_would_be_found(tmp_path, monkeypatch, fault):
    with pytest.MonkeyPatch.context() as patch:
        for name, faulty in fault.items():
            patch.setattr(durable, name, faulty)
        disk = recorded_save(tmp_path / "run", monkeypatch, epochs=2)
    with pytest.raises((AssertionError, CheckpointError)):
        check_power_loss(disk, 2, tmp_path)


def recorded_json(folder, monkeypatch):
    folder.mkdir()
    write_json(folder / "run.json", {"old": 1})
    with Disk(folder, monkeypatch) as disk:
        write_json(folder / "run.json", {"new": 1})
    return disk


def check_json(disk, tmp_path):
    for i, (before_end, tree) in enumerate(different(disk, thorough=True)):
        build(tree, tmp_path / f"case{i}")
        found = json.loads((tmp_path / f"case{i}/run.json").read_text())
        assert found == {"new": 1} or (before_end and found == {"old": 1})


def test_a_power_loss_leaves_a_json_file_old_or_new(tmp_path, monkeypatch):
    check_json(recorded_json(tmp_path / "run", monkeypatch), tmp_path)


@pytest.mark.parametrize("fault", ({"sync": lambda path: None}, {"rename": os.replace}), ids=("sync", "rename"))
def test_a_json_file_that_a_power_loss_can_spoil_would_be_found(tmp_path, monkeypatch, fault):
    with pytest.MonkeyPatch.context() as patch:
        for name, faulty in fault.items():
            patch.setattr(durable, name, faulty)
        disk = recorded_json(tmp_path / "run", monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        check_json(disk, tmp_path)


def half(path, text):
    with path.open("w") as file:
        file.write(text[: len(text) // 2])
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    ("plain", "error"), (({"new": object()}, TypeError), ({"new": 1}, OSError)), ids=("not data", "disk full")
)
def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path, monkeypatch, plain, error):
    file = tmp_path / "run.json"
    write_json(file, {"old": 1})
    old = file.read_text()
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(error):
        write_json(file, plain)
    assert file.read_text() == old


def test_a_file_holds_what_was_written_last_and_lies_alone(tmp_path):
    for plain in ({"old": [1, 2]}, {"new": 0.1}):
        write_json(tmp_path / "run.json", plain)
    assert json.loads((tmp_path / "run.json").read_text()) == {"new": 0.1}
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_folders_above_are_made_and_their_names_synced(tmp_path, monkeypatch):
    (tmp_path / "top").mkdir()
    with Disk(tmp_path / "top", monkeypatch) as disk:
        durable.make_folder(tmp_path / "top/a/b")
    (tree,) = [tree for before_end, tree in different(disk) if not before_end]
    assert set(tree) == {".", "./a", "./a/b"}
