"""One process at a time writes to a run's folder. The lock ends with the process that holds it, however that ends."""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # on Windows, where there is no lock
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"


class LockError(ValueError):
    """Another process writes to the folder: the message names both."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. Raises `LockError` if another holds it, in this process or elsewhere."""
    with (folder / LOCK).open("a+") as file:  # never deleted: who then made it anew would hold another lock
        if fcntl is not None:
            _take(fcntl.LOCK_EX | fcntl.LOCK_NB, file, folder)
        file.truncate(0)
        since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()
        yield


def _take(how: int, file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, how)
    except BlockingIOError as error:
        raise LockError(f"{folder} is in use by {_holder(file)}: wait until that has ended, or stop it") from error


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        found = json.load(file)
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except ValueError:  # it has the lock, and has not yet written its name
        return "another process"
