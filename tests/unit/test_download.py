"""CIFAR-10 comes from a server: whole, in two halves, from one that knows no ranges; and never damaged, or by half."""

import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from vit_flax import download
from vit_flax.cli import main
from vit_flax.lock import LockError, locked
from vit_flax.readers import CIFAR10_BATCHES, DataError


def archive_of(contents):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


CONTENTS = {name: hashlib.sha256(name.encode()).digest() * 3000 for name in CIFAR10_BATCHES}
ARCHIVE = archive_of(CONTENTS | {"batches.meta": b"not needed"})


class Server(http.server.ThreadingHTTPServer):
    """Sends the archive; may cut it off, may not know ranges, and keeps what ranges it was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cut_after, self.knows_ranges, self.asked = ARCHIVE, None, True, []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.knows_ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : server.cut_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(download, "URL", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")
        monkeypatch.setattr(download, "MD5", hashlib.md5(ARCHIVE).hexdigest())
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        yield server
        server.shutdown()


def check_whole(folder):
    batches = folder / "cifar-10-batches-py"
    assert {file.name: file.read_bytes() for file in batches.iterdir()} == CONTENTS
    assert {file.name for file in folder.iterdir()} == {"cifar-10-batches-py", "lock"}


def test_it_is_downloaded_once_and_kept(server, tmp_path, capsys):
    folder = download.cifar10()

    assert folder == tmp_path / "vit-flax"
    check_whole(folder)
    assert f"to {folder}, where it stays" in capsys.readouterr().err
    assert download.cifar10() == folder
    assert server.asked == [None]


def test_a_download_that_was_cut_off_goes_on_where_it_was(server):
    server.cut_after = 1000
    with pytest.raises(DataError, match=rf"cut off after 1,000 of {len(ARCHIVE):,} bytes.*goes on where it was"):
        download.cifar10()

    server.cut_after = None
    check_whole(download.cifar10())
    assert server.asked == [None, "bytes=1000-"]


def test_a_server_without_ranges_sends_it_all_again(server):
    server.cut_after = 1000
    with pytest.raises(DataError):
        download.cifar10()

    server.cut_after, server.knows_ranges = None, False
    check_whole(download.cifar10())


def test_a_download_that_was_stopped_at_its_end_needs_nothing_more(server, tmp_path):
    (tmp_path / "vit-flax").mkdir()
    (tmp_path / "vit-flax" / "cifar-10-python.tar.gz.part").write_bytes(ARCHIVE)

    check_whole(download.cifar10())
    assert server.asked == [f"bytes={len(ARCHIVE)}-"]


def test_a_damaged_archive_is_refused_and_not_kept(server, tmp_path):
    server.content = ARCHIVE[:-1] + b"x"

    with pytest.raises(DataError, match=r"damaged on the way \(md5 .*download it again"):
        download.cifar10()

    assert {file.name for file in (tmp_path / "vit-flax").iterdir()} == {"lock"}
    server.content = ARCHIVE
    check_whole(download.cifar10())


def test_without_a_network_a_sentence_says_what_to_put_where(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")

    assert main(["train", "--data", "cifar10", "--out", str(tmp_path / "run")]) == 2

    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be downloaded" in line]
    assert f"put the file into {tmp_path / 'vit-flax'} yourself" in sentence
    assert not (tmp_path / "run").exists()


def test_an_archive_that_was_put_there_by_hand_is_enough(server, tmp_path):
    (tmp_path / "vit-flax").mkdir()
    (tmp_path / "vit-flax" / "cifar-10-python.tar.gz").write_bytes(ARCHIVE)

    check_whole(download.cifar10())
    assert server.asked == []


def test_two_processes_do_not_write_one_file(server, tmp_path):
    (tmp_path / "vit-flax").mkdir()

    with locked(tmp_path / "vit-flax"), pytest.raises(LockError, match="in use by process"):
        download.cifar10()


def test_a_folder_of_that_name_is_a_folder(server, tmp_path, monkeypatch):
    (tmp_path / "cifar10").mkdir()
    monkeypatch.chdir(tmp_path)

    assert main(["train", "--data", "cifar10"]) == 2
    assert server.asked == []
