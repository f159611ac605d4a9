"""What `ALS.fit` needs before it trains: a cluster that can be used, and a dataset."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dask
from distributed import Client

from dask_als.cluster.checks import check_builds, check_files, check_storage, check_versions
from dask_als.cluster.connect import current_client, in_process_client
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.guard import guard
from dask_als.core import storage, table_files
from dask_als.core.executor import Executor
from dask_als.core.side import USERS, Side
from dask_als.core.wording import warn_caller
from dask_als.data.dataset import Dataset, is_dataset, open_dataset, rejected_path
from dask_als.data.frames import (
    MatrixIds,
    attribute_table,
    columns_of_table,
    is_dask_frame,
    table_of,
    write_table,
)
from dask_als.data.prepare import NO_ATTRIBUTES, prepare
from dask_als.data.source import open_source
from dask_als.errors import InputError, RejectedRowsWarning
from dask_als.model.model import ALSModel
from dask_als.settings.data import Columns, PrepareSettings

_LOG = logging.getLogger(__name__)
_GUARDED: weakref.WeakSet[Client] = weakref.WeakSet()
"""Clients whose guard stays with them until they close."""


@dataclass(frozen=True)
class Cluster:
    """A cluster to train on.

    Attributes
    ----------
    client : distributed.Client
    is_given : bool
        Whether it is the user's, so that its workers may be on other hosts.
    """

    client: Client
    is_given: bool

    @property
    def executor(self) -> Executor:
        """What runs tasks on it."""
        return DaskExecutor(self.client)


@contextmanager
def training_client(client: Client | None) -> Iterator[Cluster]:
    """Yield the given client, the current one, or one of threads of this process for the block.

    A cluster of the user is checked as the command line does: its versions, its builds, and
    workers that join later.

    Raises
    ------
    InputError
        If the client is asynchronous or closed, or its cluster has other versions or builds.
    """
    client = current_client() if client is None else client
    if client is None:
        with in_process_client() as client:
            yield Cluster(client, is_given=False)
        return
    _check_client(client)
    check_versions(client)
    # The guard first, so that workers that join meanwhile are compared by one of the two.
    if client not in _GUARDED:
        guard(client, _LOG.warning)
        _GUARDED.add(client)
    check_builds(client)
    yield Cluster(client, is_given=True)


def _check_client(client: Any) -> None:
    if not isinstance(client, Client):
        raise InputError(
            f"client is a {type(client).__name__}; pass a distributed.Client, such as "
            "Client('tcp://host:8786')"
        )
    if client.asynchronous:
        raise InputError(
            "the client is asynchronous, and fit waits for its tasks; pass one that is not: "
            "ALS(client=Client(address)), in a coroutine from asyncio.to_thread"
        )
    if client.status != "running":
        raise InputError(
            f"the client is {client.status}; pass one that is connected: "
            "ALS(client=Client(address))"
        )


def dataset_of_ratings(
    ratings: Any,
    scratch: str,
    cluster: Cluster,
    *,
    columns: Columns,
    settings: PrepareSettings,
    ids: MatrixIds,
    test: Any = None,
    attributes: Mapping[Side, Any] = NO_ATTRIBUTES,
) -> Dataset:
    """Open a dataset, or prepare one in the scratch directory.

    Parameters
    ----------
    test : optional
        Ratings to hold out, in any form that `ratings` may have.
    attributes : mapping of Side, optional
        Attributes of users and items: paths, or tables in memory.

    Raises
    ------
    InputError
        If the ratings cannot be used.
    """
    if cluster.is_given:
        check_storage(cluster.client, scratch)
    if isinstance(ratings, str | os.PathLike):
        source = os.fspath(ratings)
        if is_dataset(source):
            if test is not None:
                raise InputError(f"{source} is prepared already, so test= has no use; leave it out")
            for side in attributes:
                raise InputError(
                    f"{source} is prepared already, so {side.singular}_attributes= has no use; "
                    "leave it out"
                )
            return open_dataset(source)
    source, found = _source_of(ratings, scratch, "ratings", cluster, columns, ids)
    own, of_test = None, found
    if test is not None:
        own, of_test = _source_of(test, scratch, "test", cluster, columns, ids)
    if of_test.names() != found.names():
        raise InputError(
            f"test has the columns {', '.join(of_test.names().values())}, ratings have "
            f"{', '.join(found.names().values())}; give them in the same form"
        )
    path = storage.join(scratch, "dataset")
    # What ids are called where attributes are given is what the ratings given call them.
    called = replace(found, user=columns.user, item=columns.item)
    files = {
        side: _attribute_file(given, side, scratch, cluster, called)
        for side, given in attributes.items()
    }
    dataset = prepare(
        source,
        path,
        cluster.executor,
        columns=found,
        settings=settings,
        test=own,
        attributes=files,
    )
    _warn_of_rejected_rows(dataset)
    return dataset


def _attribute_file(
    given: Any, side: Side, scratch: str, cluster: Cluster, columns: Columns
) -> str:
    """Return the path of attributes; those in memory are written, with ids in a column ``id``."""
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
    else:
        path = storage.join(scratch, f"{side.singular}-attributes.parquet")
        asked = columns.user if side is USERS else columns.item
        table_files.write_parquet(path, attribute_table(given, side, asked))
    if cluster.is_given:
        check_files(cluster.client, [path])
    return path


def _source_of(
    ratings: Any, scratch: str, name: str, cluster: Cluster, columns: Columns, ids: MatrixIds
) -> tuple[str, Columns]:
    """Return the path of ratings, and their columns; those in memory are written first."""
    if isinstance(ratings, str | os.PathLike):
        source = os.fspath(ratings)
    else:
        source = storage.join(scratch, name)
        storage.make_directory(source)
        columns = write_ratings(ratings, source, cluster.client, columns, ids)
    if cluster.is_given:
        check_files(cluster.client, list(open_source(source, columns).files))
    return source, columns


def initial_model(model: ALSModel | str | os.PathLike[str] | None, scratch: str) -> str | None:
    """Return the path of a model to start from; one in memory is written first."""
    if isinstance(model, ALSModel):
        path = storage.join(scratch, "initial-model")
        model.save(path)
        return path
    return None if model is None else os.fspath(model)


def write_ratings(
    ratings: Any, folder: str, client: Client, columns: Columns, ids: MatrixIds
) -> Columns:
    """Write ratings in memory as Parquet; return the columns of the files."""
    if not is_dask_frame(ratings):
        table = table_of(ratings, columns, ids)
        write_table(table, folder)
        return columns_of_table(table.column_names, columns)
    write = dask.delayed(_write_partition, pure=False)
    tasks = [write(part, folder, n, columns) for n, part in enumerate(ratings.to_delayed())]
    names = [found for found in client.gather(client.compute(tasks)) if found]
    if not names:
        raise InputError("the ratings have no rows")
    return columns_of_table(names[0], columns)


def _write_partition(part: Any, folder: str, number: int, columns: Columns) -> list[str]:
    """Write a partition of a Dask frame; return the names of its columns, none if it is empty."""
    table = table_of(part, columns)
    if not table.num_rows:
        return []
    write_table(table, folder, number)
    return list(table.column_names)


def _warn_of_rejected_rows(dataset: Dataset) -> None:
    n_rejected, n_rows = dataset.source["rejected"], dataset.source["rows"]
    if not n_rejected:
        return
    path = rejected_path(dataset.path)
    rejected = table_files.read_parquet(path, ["row", "reason"], crc32=dataset.rejected_crc32)
    first = rejected.slice(0, 1).to_pylist()[0]
    warn_caller(
        f"{n_rejected:,} of {n_rows:,} rows are not usable and were left out; the first is row "
        f"{first['row']}: {first['reason']}",
        RejectedRowsWarning,
    )
