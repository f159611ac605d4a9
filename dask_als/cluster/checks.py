"""Check before a run that a cluster started by somebody else can do it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from distributed import Client

from dask_als.cluster.installed_build import build_of_this_process, differences
from dask_als.core import json_files, storage
from dask_als.errors import InputError

# Other versions of these may fail during a job or give other bits.
_PACKAGES = ("dask_als", "dask", "distributed", "numba", "numpy", "pyarrow")


def check_versions(client: Client) -> None:
    """Check that scheduler and workers have the same versions as this process.

    Raises
    ------
    InputError
        If one of them differs; it names that one and the versions.
    """
    found = client.get_versions(packages=list(_PACKAGES))
    here = _versions(found["client"])
    others = {"the scheduler": found["scheduler"]}
    others |= {f"the worker at {name}": worker for name, worker in found["workers"].items()}
    for who, versions in others.items():
        there = _versions(versions)
        differing = [
            f"{name.replace('_', '-')} {there[name] or 'not at all'} (here {here[name]})"
            for name in here
            if there[name] != here[name]
        ]
        if differing:
            raise InputError(
                f"{who} has {', '.join(differing)}; install the same versions on all hosts"
            )


def _versions(found: dict[str, Any]) -> dict[str, str | None]:
    python = ".".join(str(found["host"]["python"]).split(".")[:2])
    return {"python": python, **{name: found["packages"].get(name) for name in _PACKAGES}}


def check_builds(client: Client) -> None:
    """Check that all workers have the same build as this process, so that they give the same bits.

    Raises
    ------
    InputError
        If one differs; it names the worker, and the difference.
    """
    here = build_of_this_process()
    for worker, there in client.run(build_of_this_process, on_error="return").items():
        if isinstance(there, BaseException):
            differing = f"no build that it can tell ({storage.first_line(there)})"
        else:
            differing = differences(here, there)
        if differing:
            raise InputError(
                f"the worker at {worker} has {differing}, so it would compute other bits; "
                "use hosts and installations that are alike"
            )


def check_storage(client: Client, directory: str) -> None:
    """Check that each worker can read the files of this process, and vice versa.

    Raises
    ------
    InputError
        If one cannot; it names the worker and the directory.
    """
    probe = storage.join(directory, f".probe-{uuid.uuid4().hex[:8]}")
    path = storage.absolute(probe)
    storage.make_directory(probe)
    try:
        json_files.write_json(storage.join(path, "question"), "shared?")
        answers = client.run(_answer, path, on_error="return")
        for worker, answer in answers.items():
            if isinstance(answer, BaseException) or not storage.exists(answer):
                why = f" ({storage.first_line(answer)})" if isinstance(answer, Exception) else ""
                raise InputError(
                    f"the worker at {worker} does not share {storage.absolute(directory)} with "
                    f"this process{why}; give a directory that all hosts mount, or an object "
                    "store like s3://"
                )
    finally:
        storage.remove(probe)


def check_files(client: Client, paths: Sequence[str]) -> None:
    """Check that each worker sees files that this process sees.

    Raises
    ------
    InputError
        If one does not; it names the worker and the file.
    """
    wanted = [storage.absolute(path) for path in paths]
    for worker, missing in client.run(_unseen, wanted, on_error="return").items():
        if isinstance(missing, BaseException):  # For example, the object store refuses access.
            missing = f"one of {', '.join(wanted)} ({storage.first_line(missing)})"
        if missing is not None:
            raise InputError(
                f"the worker at {worker} does not see {missing}; put it where all hosts see it at "
                "the same path, or on an object store like s3://"
            )


def _unseen(paths: list[str]) -> str | None:
    """Return the first path that does not exist; runs on a worker."""
    return next((path for path in paths if not storage.exists(path)), None)


def _answer(path: str) -> str:
    """Read the driver's file, write an answer beside it and return its path; runs on a worker."""
    json_files.read_json(storage.join(path, "question"))
    answer = storage.join(path, f"answer-{uuid.uuid4().hex[:8]}")
    json_files.write_json(answer, "shared")
    return answer
