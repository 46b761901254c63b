"""Downloads against a server on this machine that breaks, forgets, lies and denies."""

import errno
import hashlib
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from hiera_det.checkpoint import download, read_checkpoint
from hiera_det.checkpoint.download import DownloadError, cache_folder, fetch_published, fetch_url
from hiera_det.checkpoint.zoo import APACHE, BY_NC, PUBLISHED, PublishedFile, nearest_names
from hiera_det.cli import main

CONTENT = bytes(range(256)) * 2000  # 512 kB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.status != 200:
            return self.send_error(server.status)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if start >= len(server.content):
            return self.send_error(416)
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(body) + server.promises))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body)}/{len(server.content)}")
        self.end_headers()
        time.sleep(server.delay)
        breaks = server.breaks.pop(0) if server.breaks else None
        self.wfile.write(body[:breaks])


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("HIERA_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HIERA_DET_OFFLINE", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.content, server.content_type, server.status = CONTENT, "application/octet-stream", 200
    server.ranges, server.breaks, server.promises, server.requests = True, [], 0, []
    server.delay = 0.0  # s before the body
    server.url = f"http://127.0.0.1:{server.server_port}/weights/net.pth"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def published(server, **kwargs) -> PublishedFile:
    facts = dict(source="test", what="", licence=BY_NC, megabytes=1, sha256=SHA256)
    return PublishedFile("net", server.url, **facts | kwargs)


def left_over() -> list[str]:
    return sorted(f.name for f in cache_folder().rglob("*") if f.suffix != ".lock" and f.is_file())


# ------------------------------------------------------------------------------------- it works
def test_a_file_is_fetched_once_and_its_licence_told(server, capsys):
    path = fetch_published(published(server, bytes=len(CONTENT)))
    assert path == cache_folder() / "net.pth"
    assert path.read_bytes() == CONTENT
    told = capsys.readouterr().err
    assert "net (test, 1 MB), licence CC BY-NC 4.0: not for commercial use" in told
    assert server.url in told
    assert fetch_published(published(server)) == path
    assert server.requests == [None]
    assert capsys.readouterr().err == ""
    assert left_over() == ["net.pth"]


def test_a_broken_download_goes_on_where_it_broke(server):
    server.breaks = [100_000, 200_000, None]
    path = fetch_published(published(server))
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=300000-"]


def test_a_second_command_goes_on_with_the_part_of_the_first(server):
    server.breaks = [50_000] * download.TRIES
    with pytest.raises(
        DownloadError, match=r"net: the connection to 127\S+ broke .*The first 0\.2"
    ):
        fetch_published(published(server))
    assert left_over() == ["net.pth.part"]
    server.requests.clear()
    assert fetch_published(published(server)).read_bytes() == CONTENT
    assert server.requests == [f"bytes={50_000 * download.TRIES}-"]
    assert left_over() == ["net.pth"]


def test_a_server_without_ranges_starts_anew(server):
    server.ranges, server.breaks = False, [100_000, None]
    assert fetch_published(published(server)).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


def test_a_part_longer_than_the_file_is_thrown_away(server):
    part = cache_folder() / "net.pth.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT + b"more")
    assert fetch_published(published(server)).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT) + 4}-", None]


def _fetch_in_a_process(file: PublishedFile, results) -> None:
    results.put(fetch_published(file).read_bytes() == CONTENT)


def test_of_several_processes_one_fetches(server):
    server.delay = 0.5  # in which all have come
    context = multiprocessing.get_context("fork")  # nothing to import: the server's threads wait
    results = context.Queue()
    processes = [
        context.Process(target=_fetch_in_a_process, args=(published(server), results))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=20) for _ in processes] == [True] * 3
    for process in processes:
        process.join()
    assert server.requests == [None]
    assert left_over() == ["net.pth"]


def test_addresses_that_end_alike_are_two_files(server):
    first = fetch_url(server.url)
    server.content = CONTENT[:1000]
    second = fetch_url(server.url.replace("weights", "other%20weights"))
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, CONTENT[:1000])
    assert second.parent.name == "other weights"
    assert fetch_url(server.url.replace("weights", "%2e%2e/%2e%2e/x")).is_relative_to(
        cache_folder()
    )


# ---------------------------------------------------------------------------- one line says why
@pytest.mark.parametrize(
    ("change", "facts", "message"),
    [
        (dict(content=CONTENT[::-1]), {}, r"sha256 [0-9a-f]{64}, published is .*; it was removed"),
        (dict(content=CONTENT[1:]), dict(bytes=512000), "has 511999 bytes, published are 512000;"),
        (dict(status=404), {}, "answers 404 Not Found: it is no longer published there"),
        (dict(status=403), {}, "answers 403 Forbidden$"),
        (dict(content_type="text/html"), {}, "answers with a web page, not with a file"),
    ],
)
def test_what_is_not_the_file_is_refused_and_not_kept(server, change, facts, message):
    for key, value in change.items():
        setattr(server, key, value)
    with pytest.raises(DownloadError, match=message) as error:
        fetch_published(published(server, **facts))
    assert str(error.value).startswith("net: ") and "\n" not in str(error.value)
    assert left_over() == []


def test_a_server_that_promises_more_than_it_sends(server):
    server.promises = 1000
    with pytest.raises(DownloadError, match="the connection ended at 512000 of 513000 bytes"):
        fetch_published(published(server))
    assert not (cache_folder() / "net.pth").exists()


def test_no_network(server):
    server.shutdown()
    server.socket.close()
    with pytest.raises(
        DownloadError, match=r"net: no connection to 127\.0\.0\.1.*refused"
    ) as error:
        fetch_published(published(server))
    assert f"Fetch {server.url} elsewhere and give its path, or put it in" in str(error.value)
    with pytest.raises(DownloadError, match="no connection to nowhere.invalid"):
        fetch_url("http://nowhere.invalid/net.pth")


def test_no_space(server, monkeypatch):
    usage = download.shutil.disk_usage("/")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    message = r"net needs 1 MB more and finds 0 MB free in .*cache; make room, or .*HIERA_DET_CACHE"
    with pytest.raises(DownloadError, match=message):
        fetch_published(published(server))
    assert left_over() == []


def test_a_disk_that_fills_on_the_way(server, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tqdm.tqdm.update", full)
    with pytest.raises(DownloadError, match=r"net finds \d+ MB free in .*; make room"):
        fetch_published(published(server))


def test_a_cache_that_may_not_be_written(server, monkeypatch, tmp_path):
    def denied(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(DownloadError, match=r"cache: Permission denied; HIERA_DET_CACHE=FOLDER"):
        fetch_published(published(server))


def test_offline_uses_what_is_there(server, monkeypatch):
    monkeypatch.setenv("HIERA_DET_OFFLINE", "1")
    with pytest.raises(DownloadError, match="net is not in .*cache, and HIERA_DET_OFFLINE or"):
        fetch_published(published(server))
    monkeypatch.setenv("HIERA_DET_OFFLINE", "0")
    path = fetch_published(published(server))
    monkeypatch.setenv("HIERA_DET_OFFLINE", "1")
    assert fetch_published(published(server)) == path
    assert server.requests == [None]


# ---------------------------------------------------------------------------------- the names
def test_a_name_is_read_as_a_checkpoint(server, monkeypatch, tmp_path):
    torch.save({"model_state": {"x": torch.ones(2)}}, tmp_path / "net.pth")
    server.content = (tmp_path / "net.pth").read_bytes()
    sha256 = hashlib.sha256(server.content).hexdigest()
    file = published(server, sha256=sha256, variant="sam2_hiera_s")
    monkeypatch.setitem(PUBLISHED, "net", file)
    monkeypatch.chdir(tmp_path)
    checkpoint = read_checkpoint("net")
    assert (checkpoint.path, checkpoint.meta) == ("net", {"variant": "sam2_hiera_s"})
    assert checkpoint.state["x"].tolist() == [1, 1]
    assert read_checkpoint(server.url).state["x"].tolist() == [1, 1]
    torch.save({"y": torch.ones(1)}, tmp_path / "net.pth")
    assert list(read_checkpoint("net.pth").state) == ["y"]  # a file of the user's comes first
    assert server.requests == [None, None]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "mae_hiera_bas_224",
            "does not exist; .*published ones are fetched by name: mae_hiera_base",
        ),
        ("sam2.1_hiera_tiny.pt", "published ones are fetched by name: sam2.1_hiera_tiny,"),
        ("no/folder/hiera_tiny_224.pth", "there is no folder no/folder; .*name: hiera_tiny_224"),
        ("resnet50.pth", "has none like it$"),
    ],
)
def test_a_wrong_name_names_its_neighbours(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        read_checkpoint(path)


def test_a_model_of_video_is_refused_before_it_is_fetched(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", None)
    with pytest.raises(ValueError, match=r"a model of video, .*; take mae_hiera_base_224$"):
        read_checkpoint("mae_hiera_base_16x224")


def test_the_command_line_prints_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HIERA_DET_CACHE", str(tmp_path))
    monkeypatch.setenv("HIERA_DET_OFFLINE", "")  # restored, since --offline sets it
    out = str(tmp_path / "out.pth")
    assert main(["convert", "mae_hiera_base_224", out, "--offline"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: mae_hiera_base_224 is not in ")
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert "https://dl.fbaipublicfiles.com/hiera/mae_hiera_base_224.pth" in captured.err


def test_the_cache_is_torch_hubs(monkeypatch, tmp_path):
    monkeypatch.delenv("HIERA_DET_CACHE", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hub" / "checkpoints"


def test_the_table_of_published_files():
    assert len(PUBLISHED) == 20 + 4 + 8
    targets = [file.url.rsplit("/", 1)[-1] for file in PUBLISHED.values()]
    assert len(set(targets)) == len(targets)
    for name, file in PUBLISHED.items():
        assert file.name == name
        assert re.fullmatch(rf"https://.+/{re.escape(name)}\.pth?", file.url)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.bytes is None or round(file.bytes / 1e6) == file.megabytes
        assert (file.licence == BY_NC) == (file.source == "official")
        assert file.licence in (BY_NC, APACHE)
    hashes = [file.sha256 for file in PUBLISHED.values() if file.sha256]
    assert len(set(hashes)) == len(hashes) == 12
    assert nearest_names("hieradet_small_sam2.1")[0] == "hieradet_small_sam2_1"


def test_the_table_of_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    for file in PUBLISHED.values():
        row = f"| [`{file.name}`]({file.url}) | {file.megabytes} | {file.licence.split(':')[0]} |"
        assert (row in page) != file.is_video, file.name
        assert file.sha256 is None or file.sha256[:8] in page
