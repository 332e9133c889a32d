"""Files and folders that survive a power loss: each is there as it was before, or as it is after, and whole.

Until a file is synced, its content may be lost after a power loss; until its folder is synced, its name may be.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Wait until a folder with all files and folders in it is on the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def rename(old: Path, new: Path) -> None:
    """Give what is synced another name in the same folder; a file takes the place of one that has it."""
    os.replace(old, new)
    sync(new.parent)


def remove(folder: Path) -> None:
    """Delete a folder, if it is there, with all that it holds."""
    if folder.exists():
        shutil.rmtree(folder)
        sync(folder.parent)


def write_json(path: Path, plain: Any) -> None:
    """Write a JSON file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(plain, indent=1) + "\n")
    sync(part)
    rename(part, path)
