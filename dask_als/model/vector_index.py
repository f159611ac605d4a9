"""The items of a model as a vector index, with the query vector of each user.

::

    OUT/
      items.usearch             an HNSW index for inner products; key i is row i of items.parquet
      items.parquet             id, title if known
      users/part-00000.parquet  id, query (float32, rank + 1), seen (keys of training items)
      index.json                rank, settings, recall; written last

The score of a user and an item is the sum of the mean, both biases and the inner product of the
factors. The mean and the bias of the user are the same for all items. So the vector of an item is
its factors and its bias, and a query is the factors of a user and a 1: the largest inner products
belong to the highest scores. To leave out seen items, search for k plus their number; drop them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from dask_als.core import json_files, storage
from dask_als.core.blocks import Factors
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import VECTOR_INDEX
from dask_als.core.side import ITEMS, USERS
from dask_als.core.table_files import write_parquet
from dask_als.data.block_files import read_block
from dask_als.data.dataset import Dataset, Partition
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.recommend import rated_by, typical_norm
from dask_als.model.top_k import Candidates, Seen, candidates, top_k
from dask_als.settings.evaluation import IndexSettings

if TYPE_CHECKING:
    from usearch.index import Index

INDEX_FILE = "items.usearch"
ITEMS_FILE = "items.parquet"
FORMAT_VERSION = 1
_USERS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """An index that was written.

    Attributes
    ----------
    users, items : int
    rank : int
    k : int
        Length of the lists that recall was measured with.
    measured_users : int
        Users that recall was measured with.
    recall : float
        Share of the exact lists that the index finds, both without seen items.
    """

    users: int
    items: int
    rank: int
    k: int
    measured_users: int
    recall: float


def require_usearch() -> None:
    """Check that usearch can be imported.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        import usearch.index  # noqa: F401
    except ImportError:
        raise InputError("a vector index needs: pip install 'dask-als[index]'") from None


def export_index(
    model: str,
    dataset: Dataset,
    out: str,
    settings: IndexSettings,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Indexed:
    """Write a vector index of a model, and measure its recall.

    Parameters
    ----------
    model : str
        A model directory.
    dataset : Dataset
        The dataset of the model: ids, titles and seen items.
    out : str
        The directory to write, on a local disk.
    settings : IndexSettings
    overwrite : bool, optional
        Replace an index at `out` that dask-als made.
    progress : callable, optional
        Called with the number of completed partitions of users and their total.

    Raises
    ------
    InputError
        If model and dataset do not belong together, or `out` cannot be written.
    """
    require_usearch()
    if not isinstance(storage.file_system(out)[0], LocalFileSystem):
        raise InputError(f"{out} is on an object store; write the index to a local disk")
    manifest = model_manifest.read_manifest(model)
    model_manifest.check_same_ids(manifest, dataset, model)
    n_items, n_users = dataset.table(ITEMS).n_rows, dataset.table(USERS).n_rows
    state, _ = model_files.read_state(model, ITEMS, range(n_items), "float32")
    exact = candidates(state, typical_norm=typical_norm(state, n_users))
    index = _index_of(state, settings)
    sample = _sample(n_users, settings)
    partitions = dataset.table(USERS).partitions
    found = wanted = 0
    with staged_directory(
        out, VECTOR_INDEX, overwrite=overwrite, inputs=[model, dataset.path]
    ) as staging:
        index.save(storage.join(staging, INDEX_FILE))
        items = dataset.read_rows(ITEMS)
        titles = [name for name in ("title",) if name in items.column_names]
        write_parquet(storage.join(staging, ITEMS_FILE), items.select(["id", *titles]))
        storage.make_directory(storage.join(staging, USERS.name))
        for number, partition in enumerate(partitions):
            progress(number, len(partitions))
            users = _Users.read(model, dataset, number, partition)
            users.write(storage.join(staging, USERS.name, storage.part_name(number)))
            chosen = sample[(sample >= partition.start) & (sample < partition.stop)]
            for rows in _batches(chosen - partition.start, _USERS_AT_ONCE):
                hits, of = _hits(users.take(rows), index, exact, settings.k)
                found, wanted = found + hits, wanted + of
        progress(len(partitions), len(partitions))
        made = Indexed(
            users=n_users,
            items=n_items,
            rank=state.factors.shape[1],
            k=settings.k,
            measured_users=len(sample),
            recall=found / wanted if wanted else 1.0,
        )
        value: dict[str, Any] = {
            "model": storage.absolute(model),
            "fingerprint": manifest.dataset["fingerprint"],
            "settings": asdict(settings),
            **asdict(made),
        }
        path = storage.join(staging, VECTOR_INDEX.manifest)
        json_files.write_manifest(path, value, format_version=FORMAT_VERSION)
    return made


@dataclass(frozen=True)
class _Users:
    """Users of one partition: ids, factors and seen items."""

    ids: pa.Array
    factors: np.ndarray
    seen: Seen

    @classmethod
    def read(cls, model: str, dataset: Dataset, number: int, partition: Partition) -> _Users:
        rows = range(partition.start, partition.stop)
        state, _ = model_files.read_state(model, USERS, rows, "float32")
        ids = dataset.rows_file(USERS).read(rows, ["id"]).column("id").combine_chunks()
        block = read_block(dataset.path, USERS, number, partition)
        return cls(ids, state.factors, rated_by(block, np.arange(len(rows))))

    @property
    def queries(self) -> np.ndarray:
        return np.column_stack([self.factors, np.ones(len(self.factors), np.float32)])

    def take(self, rows: np.ndarray) -> _Users:
        counts = np.diff(self.seen.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(indptr[-1]) + np.repeat(self.seen.indptr[rows] - indptr[:-1], counts)
        seen = Seen(indptr, self.seen.indices[places])
        return _Users(self.ids.take(pa.array(rows)), self.factors[rows], seen)

    def write(self, path: str) -> None:
        queries = self.queries
        width = queries.shape[1]
        columns = {
            "id": self.ids,
            "query": pa.FixedSizeListArray.from_arrays(pa.array(queries.ravel()), width),
            "seen": pa.LargeListArray.from_arrays(self.seen.indptr, self.seen.indices),
        }
        write_parquet(path, pa.table(columns))


def _index_of(items: Factors, settings: IndexSettings) -> Index:
    from usearch.index import Index

    vectors = np.column_stack([items.factors, items.bias])
    index = Index(
        ndim=vectors.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=settings.connectivity,
        expansion_add=settings.expansion,
        expansion_search=settings.expansion,
    )
    index.add(np.arange(len(vectors)), vectors)
    return index


def _sample(n_users: int, settings: IndexSettings) -> np.ndarray:
    """Return the users to measure recall with, ascending."""
    if n_users <= settings.measured_users:
        return np.arange(n_users)
    random = np.random.default_rng(settings.seed)
    return np.sort(random.choice(n_users, settings.measured_users, replace=False))


def _batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _hits(users: _Users, index: Index, exact: Candidates, k: int) -> tuple[int, int]:
    """Return how many items of the exact lists the index finds, and their number."""
    unbiased = Factors(np.zeros(len(users.factors), np.float32), users.factors)
    best = top_k(unbiased, exact, k, seen=users.seen, mean=0.0).rows
    hits = 0
    for query, rows, start, stop in zip(
        users.queries, best, users.seen.indptr[:-1], users.seen.indptr[1:], strict=True
    ):
        seen = users.seen.indices[start:stop]
        keys = index.search(query, min(k + len(seen), len(index))).keys
        unseen = keys[~np.isin(keys, seen)][:k]
        hits += int(np.isin(rows[rows >= 0], unseen).sum())
    return hits, int((best >= 0).sum())
