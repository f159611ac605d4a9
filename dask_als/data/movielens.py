"""Download and verify GroupLens' archives of MovieLens ratings."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pooch
import requests
from pooch.downloaders import HTTPDownloader

from dask_als.core.outputs import staged_path
from dask_als.core.storage import first_line
from dask_als.errors import InputError, JobError

NAMES = ("ml-latest-small", "ml-25m", "ml-32m")
GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_SECONDS_TO_WAIT = 30


@dataclass(frozen=True)
class Fetched:
    """A downloaded archive.

    Attributes
    ----------
    path : str
    md5 : str or None
        The verified checksum; None if GroupLens publishes none.
    """

    path: str
    md5: str | None


def fetch(
    name: str, directory: str, *, base_url: str = GROUPLENS, progress: object = False
) -> Fetched:
    """Download an archive, unless it exists already.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    directory : str
        Where to write ``NAME.zip``.
    base_url : str, optional
        Address of ``NAME.zip`` and ``NAME.zip.md5``.
    progress : optional
        A progress bar for pooch: an object with the interface of tqdm.

    Raises
    ------
    InputError
        If the name is unknown.
    JobError
        If the download fails, or the archive does not match its checksum.
    """
    if name not in NAMES:
        raise InputError(f"{name!r} cannot be fetched; choose one of {', '.join(NAMES)}")
    url = f"{base_url}/{name}.zip"
    path = os.path.join(os.path.abspath(directory), f"{name}.zip")
    with _fetching(url):
        md5 = _published_md5(f"{url}.md5")
    if os.path.lexists(path):
        _check_same(path, md5)
        return Fetched(path, md5)
    with staged_path(path) as staging:
        with _fetching(url):
            pooch.retrieve(
                url,
                known_hash=f"md5:{md5}" if md5 else None,
                fname=os.path.basename(staging),
                path=os.path.dirname(staging),
                downloader=HTTPDownloader(progressbar=progress, timeout=_SECONDS_TO_WAIT),
            )
        damaged = _damaged_member(staging)
        if damaged is not None:
            raise JobError(f"{url} was damaged ({damaged}) and was discarded; fetch it again")
    return Fetched(path, md5)


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
    answer = requests.get(url, timeout=_SECONDS_TO_WAIT)
    if answer.status_code == requests.codes.not_found:
        return None
    answer.raise_for_status()
    found = re.search(r"\b[0-9a-fA-F]{32}\b", answer.text)
    if found is None:
        raise ValueError(f"{url} holds no MD5 checksum")
    return found.group().lower()


def _damaged_member(path: str) -> str | None:
    """Return the first damaged member of a zip archive; None if all are intact."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except zipfile.BadZipFile:
        return "not a zip archive"


def _check_same(path: str, md5: str | None) -> None:
    """Raise InputError unless the existing file is the archive to fetch."""
    is_same = os.path.isfile(path) and (
        _damaged_member(path) is None if md5 is None else pooch.file_hash(path, alg="md5") == md5
    )
    if not is_same:
        raise InputError(
            f"{path} exists and is not the archive to fetch; move it away, or choose another folder"
        )
