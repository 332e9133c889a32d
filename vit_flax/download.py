"""CIFAR-10 from its home: checked, resumed where it was cut off, and kept for the next time."""

import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from vit_flax.durable import make_folder, remove, rename, sync, sync_all
from vit_flax.files import one_line
from vit_flax.lock import locked
from vit_flax.progress import tell
from vit_flax.readers import CIFAR10_ARCHIVE, CIFAR10_BATCHES, CIFAR10_FOLDER, DataError

URL = f"https://www.cs.toronto.edu/~kriz/{CIFAR10_ARCHIVE}"
MD5 = "c58f30108f718f92721af3b95e74349a"  # as torchvision lists it, too
PIECE = 2**16  # bytes
PATIENCE = 30  # seconds without an answer


def cifar10() -> Path:
    """The folder that holds CIFAR-10's batches; they are downloaded if they are not there yet.

    It is `vit-flax` in the user's cache, `$XDG_CACHE_HOME` or `~/.cache`. Raises `DataError`, saying what to put where,
    if they cannot be had, and `LockError` if another process is at it.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vit-flax"
    if not (folder / CIFAR10_FOLDER).is_dir():
        make_folder(folder)
        with locked(folder):
            _get(folder)
    return folder


def _get(folder: Path) -> None:
    archive = folder / CIFAR10_ARCHIVE
    if not archive.exists():
        part = archive.with_name(f"{archive.name}.part")
        tell(f"downloading {URL} to {folder}, where it stays for the next time")
        try:
            _download(part)
        except (OSError, http.client.HTTPException) as error:
            again = "give the command again, and it goes on where it was"
            by_hand = f"or put the file into {folder} yourself"
            raise DataError(f"{URL} cannot be downloaded ({one_line(error)}): {again}, {by_hand}") from error
        sync(part)
        rename(part, archive)
    if (found := _md5(archive)) != MD5:
        archive.unlink()
        raise DataError(f"{archive} was damaged on the way (md5 {found}, not {MD5}), and is deleted: download it again")
    _unpack(archive, folder / CIFAR10_FOLDER)
    archive.unlink()
    tell(f"CIFAR-10 is in {folder / CIFAR10_FOLDER}")


def _download(part: Path) -> None:
    """What is missing of the file. Raises `OSError` or `HTTPException`; what has come by then stays."""
    have = part.stat().st_size if part.exists() else 0
    asked = urllib.request.Request(URL, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(asked, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # there is nothing more
            return
        raise
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:  # it knows no ranges, and sends all of it
            have = 0
        length = int(answer.headers["Content-Length"]) + have
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=length, initial=have, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while piece := answer.read(PIECE):
                file.write(piece)
                bar.update(len(piece))
    if (size := part.stat().st_size) < length:
        raise ConnectionError(f"cut off after {size:,} of {length:,} bytes")


def _md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """The batches of the archive; whoever finds the folder finds all of them."""
    part = folder.with_name(f"{folder.name}.part")
    remove(part)
    part.mkdir()
    with tarfile.open(archive) as members:
        for name in CIFAR10_BATCHES:
            content = members.extractfile(f"{CIFAR10_FOLDER}/{name}")
            assert content is not None, name
            (part / name).write_bytes(content.read())
    sync_all(part)
    rename(part, folder)
