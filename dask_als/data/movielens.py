"""Download and verify public archives of ratings: MovieLens and goodbooks-10k."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import pooch
import requests
from pooch.downloaders import HTTPDownloader

from dask_als.core.outputs import staged_path
from dask_als.core.storage import first_line
from dask_als.errors import InputError, JobError

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
GOODBOOKS = "https://github.com/zygmuntz/goodbooks-10k/releases/download/v1.0"
_MIB = 1 << 20
_MAX_CHECKSUM_BYTES = 64 << 10
_MAX_INFLATION = 20
_SECONDS_TO_WAIT = 30
_CHUNK_BYTES = 256 << 10
# What zipfile raises for a damaged member, depending on where the damage is.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Archive:
    """An archive that `fetch` knows.

    Attributes
    ----------
    site : str
        Address of the folder that holds the archive.
    file : str
        Name of the archive in it.
    max_bytes : int
        A larger file is not the archive. About four times the size that it has now.
    """

    site: str
    file: str
    max_bytes: int


def _movielens(name: str, max_mib: int) -> Archive:
    return Archive(GROUPLENS, f"{name}.zip", max_mib * _MIB)


ARCHIVES = {
    "ml-100k": _movielens("ml-100k", 20),
    "ml-1m": _movielens("ml-1m", 24),
    "ml-10m": _movielens("ml-10m", 256),
    "ml-20m": _movielens("ml-20m", 800),
    "ml-25m": _movielens("ml-25m", 1024),
    "ml-32m": _movielens("ml-32m", 1024),
    "ml-latest": _movielens("ml-latest", 1400),
    "ml-latest-small": _movielens("ml-latest-small", 8),
    "goodbooks": Archive(GOODBOOKS, "goodbooks-10k.zip", 64 * _MIB),
}


@dataclass(frozen=True)
class Fetched:
    """A downloaded archive.

    Attributes
    ----------
    path : str
    md5 : str or None
        The verified checksum; None if none is published.
    """

    path: str
    md5: str | None


def fetch(
    name: str, directory: str, *, base_url: str | None = None, progress: object = False
) -> Fetched:
    """Download an archive, unless it exists already.

    Parameters
    ----------
    name : str
        One of `ARCHIVES`.
    directory : str
        Where to write the archive.
    base_url : str, optional
        Address of the folder that holds the archive and its checksum (``.md5``). The publisher's
        site by default.
    progress : optional
        A progress bar for pooch: an object with the interface of tqdm.

    Raises
    ------
    InputError
        If the name is unknown, or another file has the path of the archive.
    JobError
        If the download fails, is too large, or does not match its checksum.
    """
    archive = ARCHIVES.get(name)
    if archive is None:
        raise InputError(f"{name!r} cannot be fetched; choose one of {', '.join(ARCHIVES)}")
    url = f"{(base_url or archive.site).rstrip('/')}/{archive.file}"
    path = os.path.join(os.path.abspath(directory), archive.file)
    with _fetching(url):
        md5 = _published_md5(f"{url}.md5")
    if os.path.lexists(path):
        _check_same(path, md5, archive)
        return Fetched(path, md5)
    pooch.get_logger().setLevel("WARNING")  # It prints the hash of a file without a known one.
    with staged_path(path) as staging:
        with _fetching(url):
            pooch.retrieve(
                url,
                known_hash=f"md5:{md5}" if md5 else None,
                fname=os.path.basename(staging),
                path=os.path.dirname(staging),
                downloader=_Download(archive.max_bytes, progress),
            )
        problem = _problem_of(staging, archive)
        if problem is not None:
            raise JobError(f"{url} was damaged ({problem}) and was discarded; fetch it again")
    return Fetched(path, md5)


class _Download:
    """A downloader for pooch that stops at a maximum size."""

    def __init__(self, max_bytes: int, progress: object) -> None:
        self._max_bytes = max_bytes
        self._http = HTTPDownloader(
            progressbar=progress, timeout=_SECONDS_TO_WAIT, chunk_size=_CHUNK_BYTES
        )

    def __call__(self, url: str, output_file: str, owner: object) -> None:
        with open(output_file, "wb") as file:
            self._http(url, _LimitedFile(file, self._max_bytes), owner)


class _LimitedFile:
    """A binary file that refuses to grow beyond a maximum size."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file = file
        self._left = max_bytes
        self._max_bytes = max_bytes

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(
                f"it is larger than {self._max_bytes >> 20} MiB, so it is not the archive"
            )
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def _fetching(url: str) -> Iterator[None]:
    """Convert errors of a download to JobError."""
    try:
        yield
    except requests.ConnectionError:
        raise JobError(f"{url} cannot be reached; are you offline?") from None
    except (requests.RequestException, ValueError) as error:
        raise JobError(f"{url} could not be fetched: {first_line(error)}") from None


def _published_md5(url: str) -> str | None:
    """Return the checksum published at an address; None if there is none."""
    with requests.get(url, timeout=_SECONDS_TO_WAIT, stream=True) as answer:
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        content = next(answer.iter_content(_MAX_CHECKSUM_BYTES), b"")
    found = re.search(rb"\b[0-9a-fA-F]{32}\b", content)
    if found is None:
        raise ValueError(f"{url} holds no MD5 checksum")
    return found.group().decode().lower()


def _problem_of(path: str, archive: Archive) -> str | None:
    """Return what is wrong with a zip archive: a damaged member or its size; None if intact."""
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(member.file_size for member in file.infolist())
            if unpacked > _MAX_INFLATION * archive.max_bytes:
                return f"unpacked it has {unpacked >> 20:,} MiB, which is too much"
            return file.testzip()
    except _ZIP_ERRORS:
        return "not a complete zip archive"


def _check_same(path: str, md5: str | None, archive: Archive) -> None:
    """Raise InputError unless the existing file is the archive to fetch."""
    is_same = os.path.isfile(path) and (
        _problem_of(path, archive) is None
        if md5 is None
        else pooch.file_hash(path, alg="md5") == md5
    )
    if not is_same:
        raise InputError(
            f"{path} exists and is not the archive to fetch; move it away, or choose another folder"
        )
