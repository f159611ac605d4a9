"""Downloads GroupLens' archives of MovieLens ratings, checked, ready for `prepare`."""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import dataclass

import pooch
import requests
from pooch.downloaders import HTTPDownloader

from dask_als.errors import InputError, JobError
from dask_als.storage import first_line

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
        The checksum that is published beside it and that it has; None if none is published.
    """

    path: str
    md5: str | None


def fetch(
    name: str, directory: str, *, base_url: str = GROUPLENS, progress: object = False
) -> Fetched:
    """Download an archive, unless it is there already.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    directory : str
        Where ``NAME.zip`` is put.
    base_url : str, optional
        Where ``NAME.zip`` and ``NAME.zip.md5`` are.
    progress : optional
        What pooch takes as a progress bar: an object with the interface of tqdm.

    Raises
    ------
    InputError
        If the name is not known.
    JobError
        If the archive cannot be had, or is not what its checksum says.
    """
    if name not in NAMES:
        raise InputError(f"{name!r} cannot be fetched; choose one of {', '.join(NAMES)}")
    url = f"{base_url}/{name}.zip"
    try:
        md5 = _published_md5(f"{url}.md5")
        path = pooch.retrieve(
            url,
            known_hash=f"md5:{md5}" if md5 else None,
            fname=f"{name}.zip",
            path=directory,
            downloader=HTTPDownloader(progressbar=progress, timeout=_SECONDS_TO_WAIT),
        )
    except requests.ConnectionError:
        raise JobError(f"{url} cannot be reached; are you offline?") from None
    except (requests.RequestException, ValueError) as error:
        raise JobError(f"{url} could not be fetched: {first_line(error)}") from None
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error.strerror or error}") from None
    _check_archive(path)
    return Fetched(path, md5)


def _published_md5(url: str) -> str | None:
    """Return the checksum at an address; None where none is published."""
    answer = requests.get(url, timeout=_SECONDS_TO_WAIT)
    if answer.status_code == requests.codes.not_found:
        return None
    answer.raise_for_status()
    found = re.search(r"\b[0-9a-fA-F]{32}\b", answer.text)
    if found is None:
        raise ValueError(f"{url} holds no MD5 checksum")
    return found.group().lower()


def _check_archive(path: str) -> None:
    """Check that a zip archive is whole; remove it if it is not."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        damaged = path
    if damaged is not None:
        os.remove(path)
        raise JobError(f"{path} was damaged ({damaged}) and is removed; fetch it again")
