"""Downloads of weights into a cache: resumed, checked, and whole or not there at all."""

import errno
import hashlib
import http.client
import os
import shutil
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from .zoo import PublishedFile

__all__ = ["DownloadError", "cache_folder", "fetch_published", "fetch_url", "is_offline"]

TIMEOUT = 30.0  # s without a byte
TRIES = 5  # of a connection that breaks after it began
CHUNK = 1 << 20  # bytes


class DownloadError(OSError):
    """A file could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class _Job:
    title: str
    url: str
    target: Path
    sha256: str | None = None
    bytes: int | None = None

    @property
    def part(self) -> Path:
        return Path(f"{self.target}.part")

    @property
    def by_hand(self) -> str:
        return f"Fetch {self.url} elsewhere and give its path, or put it in {self.target.parent}"


def cache_folder() -> Path:
    """$HIERA_DET_CACHE, else torch hub's folder of checkpoints, which timm and torchvision use.

    So a file that the official code has fetched is found; $TORCH_HOME moves it.
    """
    own = os.environ.get("HIERA_DET_CACHE")
    if own:
        return Path(own).expanduser()
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def is_offline() -> bool:
    """Whether HIERA_DET_OFFLINE (or `--offline`) forbids the network."""
    return os.environ.get("HIERA_DET_OFFLINE", "").lower() not in ("", "0", "false")


def fetch_published(file: PublishedFile) -> Path:
    """The local copy of a published file, fetched at first use; its licence is printed then.

    Raises:
        DownloadError: it cannot be had, or is not what is published.
    """
    target = cache_folder() / _file_name(file.url)
    job = _Job(file.name, file.url, target, file.sha256, file.bytes)
    note = f"{file.name} ({file.source}, {file.megabytes} MB), licence {file.licence}"
    return _fetch(job, f"{note}\n  {file.url} -> {target}")


def fetch_url(url: str) -> Path:
    """The local copy of the file at an address, fetched at first use.

    Raises:
        DownloadError: it cannot be had.
    """
    parts = urlsplit(url)
    folders = [x for x in unquote(parts.path).split("/")[:-1] if x not in ("", ".", "..")]
    # Under its host and folders: half the files of the web are called pytorch_model.bin.
    target = cache_folder().joinpath(parts.netloc.replace(":", "_"), *folders, _file_name(url))
    return _fetch(_Job(target.name, url, target), f"{url}\n  -> {target}")


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1] or "file"


def _fetch(job: _Job, note: str) -> Path:
    if job.target.is_file():
        return job.target
    if is_offline():
        raise DownloadError(
            f"{job.title} is not in {job.target.parent}, and HIERA_DET_OFFLINE or --offline "
            f"forbids the network. {job.by_hand}"
        )
    from iopath.common.file_io import file_lock

    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(job.target)):  # of several processes one fetches, the others wait
            if not job.target.is_file():
                print(note, file=sys.stderr, flush=True)
                _receive(job)
                _check(job)
                os.replace(job.part, job.target)
    except PermissionError as error:
        raise DownloadError(
            f"{error.filename or job.target.parent}: {error.strerror}; HIERA_DET_CACHE=FOLDER "
            "moves the downloads to another folder"
        ) from error
    return job.target


def _receive(job: _Job) -> None:
    """Writes the whole of `url` to the part, going on where the part ends."""
    for attempt in range(TRIES):
        before = _length(job.part)
        try:
            return _receive_once(job)
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # nothing after the part: it is of another file
                job.part.unlink()
                continue
            reason = f"{job.url} answers {error.code} {error.reason}"
            if error.code in (404, 410):
                reason += ": it is no longer published there"
            raise DownloadError(f"{job.title}: {reason}") from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, DownloadError) or getattr(error, "filename", None):
                raise  # said already; or of a local file
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise _no_space(job, None) from error
            if _length(job.part) > before and attempt + 1 < TRIES:
                continue  # it broke on the way: go on
            raise DownloadError(_broken(job, error)) from error
    raise DownloadError(f"{job.title}: {job.url} was not whole in {TRIES} tries. {job.by_hand}")


def _receive_once(job: _Job) -> None:
    from tqdm import tqdm

    have = _length(job.part)
    headers = {"User-Agent": "hiera_det"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(job.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.status != 206:  # the server sends all of it, whatever was asked for
            have = 0
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(f"{job.title}: {job.url} answers with a web page, not with a file")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else job.bytes
        free = shutil.disk_usage(job.target.parent).free
        if total and total - have > free:
            raise _no_space(job, total - have)
        with (
            open(job.part, "ab" if have else "wb") as file,
            tqdm(
                total=total, initial=have, unit="B", unit_scale=True, desc=job.title, disable=None
            ) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total and _length(job.part) < total:
        raise ConnectionError(f"the connection ended at {_length(job.part)} of {total} bytes")


def _check(job: _Job) -> None:
    """Removes a part that is not the published file.

    Raises:
        DownloadError: it was not.
    """
    wrong = ""
    if job.bytes is not None and _length(job.part) != job.bytes:
        wrong = f"has {_length(job.part)} bytes, published are {job.bytes}"
    elif job.sha256 is not None:
        with open(job.part, "rb") as file:
            found = _sha256(file)
        if found != job.sha256:
            wrong = f"has the sha256 {found}, published is {job.sha256}"
    if wrong:
        job.part.unlink()
        raise DownloadError(
            f"{job.title}: what came from {job.url} {wrong}; it was removed. Try again; if that "
            "does not help, the file was replaced or the network changes it"
        )


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _no_space(job: _Job, needed: int | None) -> DownloadError:
    free = shutil.disk_usage(job.target.parent).free
    needs = f"needs {needed / 1e6:.0f} MB more and " if needed else ""
    return DownloadError(
        f"{job.title} {needs}finds {free / 1e6:.0f} MB free in {job.target.parent}; make room, or "
        "choose another folder with HIERA_DET_CACHE=FOLDER"
    )


def _broken(job: _Job, error: Exception) -> str:
    reason = getattr(error, "reason", error)
    host = urlsplit(job.url).netloc
    if not _length(job.part):
        return f"{job.title}: no connection to {host} ({reason}). {job.by_hand}"
    return (
        f"{job.title}: the connection to {host} broke ({reason}). The first "
        f"{_length(job.part) / 1e6:.1f} MB are kept: the same command goes on from there"
    )
