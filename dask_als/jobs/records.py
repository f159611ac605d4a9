"""The records of jobs or schedules: ConfigMaps, each with the Secret that it owns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from kr8s.objects import APIObject, ConfigMap

from dask_als.errors import DaskALSError, InputError
from dask_als.jobs.job_file import Job, job_from_toml
from dask_als.kubernetes import spec
from dask_als.kubernetes.api import api_of, ask, create
from dask_als.kubernetes.spec import Manifest
from dask_als.settings.credentials import resolved

_ID = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class Records:
    """The records of one kind in the namespace of a cluster.

    Parameters
    ----------
    namespace : str
    word : {"job", "schedule"}
        The kind, for messages.
    label : str
        The label of all objects that belong to a record; its value is the record's id.
    terms : str, optional
        More terms of a label selector, which the records satisfy.

    Raises
    ------
    JobError
        If no cluster can be reached.
    """

    def __init__(self, namespace: str, word: str, label: str, terms: str = "") -> None:
        self.namespace = namespace
        self.api = api_of(namespace)
        self._word, self._label, self._terms = word, label, terms

    def create(
        self,
        record: Manifest,
        job: Job,
        objects: Iterable[Manifest],
        undo: Callable[[str], None],
    ) -> None:
        """Create a record, the Secret with the secret values of its job, and other objects.

        Parameters
        ----------
        undo : callable
            Deletes the record with this id, and what belongs to it.

        Raises
        ------
        InputError
            If a secret value is missing, or Kubernetes refuses an object. No object is left behind.
        """
        values = resolved(job.cluster.kubernetes.secrets, os.environ)
        record_id = record["metadata"]["name"]
        create(record, self.api)
        try:
            if values:
                owner = self.one(record_id).raw.to_dict()
                create(spec.secret(record_id, self.namespace, values, owner), self.api)
            for manifest in objects:
                create(manifest, self.api)
        except InputError:
            with suppress(DaskALSError):
                undo(record_id)
            raise

    def all(self) -> list[APIObject]:
        """Return all records."""
        return self.find(ConfigMap, f"{self._label}{self._terms}")

    def has(self, record_id: str) -> bool:
        """Return whether there is such a record."""
        return bool(self._named(record_id))

    def one(self, record_id: str) -> APIObject:
        """Return a record.

        Raises
        ------
        InputError
            If it does not exist.
        """
        for record in self._named(record_id):
            return record
        raise InputError(
            f"there is no {self._word} {record_id!r} in namespace {self.namespace}; `dask-als "
            f"list` shows all {self._word}s"
        )

    def job(self, record_id: str) -> Job:
        """Return the job of a record, without secret values."""
        return job_from_toml(self.one(record_id).raw["data"]["job.toml"])

    def owned(self, kind: type[Any], record_id: str) -> list[APIObject]:
        """Return the objects of a kind that belong to a record."""
        return self.find(kind, f"{self._label}={record_id}")

    def find(self, kind: type[Any], selector: str) -> list[APIObject]:
        """Return the objects of a kind that a label selector selects."""
        return ask(lambda: list(self.api.get(kind, label_selector=selector)))  # type: ignore[arg-type]

    def _named(self, record_id: str) -> list[APIObject]:
        # Anything else has a meaning in selectors, or is refused there.
        if not _ID.fullmatch(record_id):
            return []
        return self.find(ConfigMap, f"{self._label}={record_id}{self._terms}")
