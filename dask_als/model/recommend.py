"""The best of one side for all or some rows of the other, as Parquet written by the workers.

::

    OUT/
      part-00000.parquet …       user_id, rank (from 1), item_id, score, std on request, title if
                                 known
      _recommendations.parquet   no rows; settings, model and counts in its metadata; written last

All files are Parquet of the same columns, so that pandas, PyArrow, Polars, DuckDB and Dask read the
folder as one table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_als.core import json_files, parquet_manifest, storage, table_files
from dask_als.core.blocks import Block, Factors
from dask_als.core.executor import Executor
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import OLD_RECOMMENDATIONS, RECOMMENDATIONS, Kind
from dask_als.core.side import ITEMS, Side, side_named
from dask_als.core.typed_tables import from_manifest
from dask_als.data.block_files import read_block
from dask_als.data.dataset import Dataset, Partition, RowsFile
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model import sample_files
from dask_als.model.ids import checked_ids
from dask_als.model.predictive_variance import standard_deviations
from dask_als.model.top_k import Best, Candidates, Seen, candidates, nothing_seen, top_k
from dask_als.settings.evaluation import RecommendSettings

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Recommended:
    """Counts of what was written.

    Attributes
    ----------
    rows : int
        Users or items with recommendations.
    unknown : int
        Those of them that the model does not know: they get the overall best.
    recommendations : int
    """

    rows: int
    unknown: int
    recommendations: int


@dataclass(frozen=True, kw_only=True)
class RecommendationsManifest(Recommended):
    """The manifest of recommendations.

    Attributes
    ----------
    model : str
    settings : dict
    parts : dict of str to int
        The name of each part file, and its CRC-32; empty if that is not known.
    """

    model: str
    settings: dict[str, Any]
    parts: dict[str, int] = field(default_factory=dict)

    def files(self, out: str) -> dict[str, int]:
        """Return the path of every part file at `out`, and the file's CRC-32."""
        return {storage.join(out, name): crc32 for name, crc32 in self.parts.items()}


@dataclass(frozen=True)
class _Written:
    """One part: its rows, its recommendations, its file and the file's CRC-32."""

    rows: int
    recommendations: int
    path: str
    crc32: int
    schema: pa.Schema


@dataclass(frozen=True)
class _Others:
    """The side that is recommended.

    Attributes
    ----------
    candidates : Candidates
    ids : pyarrow.Table
        ``id`` and, if known, ``title`` of each row.
    mean, mean_bias : float
        The global mean, and the bias of an unknown searching row.
    samples : Factors or None
        For standard deviations: the samples, in the order of the candidates.
    """

    candidates: Candidates
    ids: pa.Table
    mean: float
    mean_bias: float
    samples: Factors | None


@dataclass(frozen=True)
class _Chunk:
    """Rows of one partition that one task searches for.

    Attributes
    ----------
    number : int
        The number of the partition.
    partition : Partition
    rows : range
    only : ndarray of int or None
        The requested ones among them, ascending; None is all.
    """

    number: int
    partition: Partition
    rows: range
    only: np.ndarray | None


def recommend(
    model: str,
    dataset: Dataset,
    out: str,
    executor: Executor,
    settings: RecommendSettings,
    *,
    only: Sequence[Any] | None = None,
    include: Sequence[Any] | None = None,
    exclude: Sequence[Any] = (),
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recommended:
    """Write the best for each row of a side.

    Parameters
    ----------
    model : str
        A model directory that all workers can read.
    dataset : Dataset
        It has the users and items of the model: ids, titles and training ratings.
    out : str
        The directory to write.
    only : sequence of ids, optional
        Who gets recommendations; all rows by default.
    include, exclude : sequence of ids, optional
        What may, and what must not be recommended.
    overwrite : bool, optional
    progress : callable, optional
        Called with the number of tasks that are done, and of all tasks.

    Raises
    ------
    InputError
        If model and dataset do not belong together, an id is of another type than the model's,
        nothing may be recommended, `out` exists, or standard deviations are requested from a model
        that is not an average of samples.
    """
    manifest = model_manifest.read_manifest(model)
    model_manifest.check_same_ids(manifest, dataset, model)
    if settings.std:
        sample_files.check_has_samples(manifest, model)
    side = side_named(settings.side)
    model = storage.absolute(model)
    allowed = allowed_rows(_ids(dataset, side.other), side.other, include, exclude)
    wanted, unknown = (None, []) if only is None else _split(_ids(dataset, side), only, side)
    read = [model, dataset.path]
    with staged_directory(out, RECOMMENDATIONS, overwrite=overwrite, inputs=read) as staging:
        others = executor.submit(
            _read_others, model, dataset, settings, allowed, key=f"candidates-{side.other.name}"
        )
        chunks = list(_chunks(dataset.table(side).partitions, wanted, settings.rows_at_once))
        parts = [
            executor.submit(
                _recommend_chunk,
                (model, dataset.path, staging),
                dataset.rows_file(side),
                place,
                chunk,
                others,
                settings,
                key=f"recommend-{side.name}-{place}",
            )
            for place, chunk in enumerate(chunks)
        ]
        if unknown or not chunks:
            parts.append(
                executor.submit(
                    _recommend_to_unknown,
                    model,
                    storage.join(staging, storage.part_name(len(chunks))),
                    pa.array(unknown),
                    others,
                    settings,
                    key=f"recommend-{side.name}-unknown",
                )
            )
        written = rows = 0
        progress(0, len(parts))
        crc32 = {}
        schema = pa.schema([])
        for done, part in enumerate(executor.as_completed(parts), start=1):
            rows, written = rows + part.rows, written + part.recommendations
            crc32[part.path.rsplit("/", 1)[-1]] = part.crc32
            schema = part.schema
            progress(done, len(parts))
        made = Recommended(rows=rows, unknown=len(unknown), recommendations=written)
        checksums = dict(sorted(crc32.items()))
        about = {"model": model, "settings": asdict(settings), **asdict(made), "parts": checksums}
        path = storage.join(staging, RECOMMENDATIONS.manifest)
        parquet_manifest.write_manifest(path, about, schema, format_version=FORMAT_VERSION)
    return made


def read_manifest(out: str) -> RecommendationsManifest:
    """Read the manifest of recommendations, of this release or an earlier one.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    path = storage.join(out, layout_of(out).manifest)
    read = parquet_manifest if path.endswith(".parquet") else json_files
    manifest = read.read_manifest(path, format_version=FORMAT_VERSION)
    return from_manifest(RecommendationsManifest, manifest, path)


def layout_of(out: str) -> Kind:
    """Return the kind of the recommendations at `out`: of this release or an earlier one."""
    is_old = storage.exists(storage.join(out, OLD_RECOMMENDATIONS.manifest))
    return OLD_RECOMMENDATIONS if is_old else RECOMMENDATIONS


def allowed_rows(
    ids: pd.Index[Any],
    side: Side,
    include: Sequence[Any] | pd.Index[Any] | None,
    exclude: Sequence[Any] | pd.Index[Any],
) -> np.ndarray | None:
    """Return whether each row may be recommended; None if all may.

    Raises
    ------
    InputError
        If none may.
    """
    if include is None and not len(exclude):
        return None
    allowed = np.ones(len(ids), bool)
    if include is not None:
        allowed &= ids.isin(checked_ids(include, ids.dtype, side.singular))
    allowed &= ~ids.isin(checked_ids(exclude, ids.dtype, side.singular))
    if not allowed.any():
        raise InputError(f"none of the {len(ids):,} {side.name} may be recommended")
    return np.asarray(allowed)


def _ids(dataset: Dataset, side: Side) -> pd.Index[Any]:
    return pd.Index(dataset.read_rows(side).column("id").to_pandas())


def _split(ids: pd.Index[Any], wanted: Sequence[Any], side: Side) -> tuple[np.ndarray, list[Any]]:
    """Return the rows of known ids, ascending, and the unknown ids in their order."""
    distinct = checked_ids(wanted, ids.dtype, side.singular).unique()
    rows = ids.get_indexer(distinct)
    return np.sort(rows[rows >= 0]), distinct[rows < 0].tolist()


def _chunks(
    partitions: Sequence[Partition], wanted: np.ndarray | None, rows_at_once: int
) -> list[_Chunk]:
    chunks = []
    for number, partition in enumerate(partitions):
        for start in range(partition.start, partition.stop, rows_at_once):
            rows = range(start, min(start + rows_at_once, partition.stop))
            only = wanted
            if wanted is not None:
                only = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, rows.stop)]
            if only is None or len(only):
                chunks.append(_Chunk(number, partition, rows, only))
    return chunks


def _read_others(
    model: str, dataset: Dataset, settings: RecommendSettings, allowed: np.ndarray | None
) -> _Others:
    side = side_named(settings.side)
    manifest = model_manifest.read_manifest(model)
    rows = range(dataset.table(side.other).n_rows)
    state, _ = model_files.read_state(model, side.other, rows, manifest.settings.dtype)
    table = dataset.read_rows(side.other)
    found = candidates(
        state, allowed=allowed, typical_norm=typical_norm(state, dataset.table(side).n_rows)
    )
    samples = None
    if settings.std:
        biases = model_files.read_biases_of_samples(model, side.other, rows)
        samples = Factors(biases[found.rows], found.weights[:, :-1])
    return _Others(
        found,
        table.select(["id", *_title_column(side.other, table)]),
        manifest.global_mean,
        manifest.side(side).mean_bias,
        samples,
    )


def typical_norm(state: Factors, n_searching: int) -> float:
    """Estimate the norm of the searching rows' factors: the two sides have equal total weight."""
    return float(np.sqrt(np.square(state.factors, dtype=np.float64).sum() / n_searching))


def _title_column(side: Side, table: pa.Table) -> list[str]:
    return ["title"] if side is ITEMS and "title" in table.column_names else []


def _recommend_chunk(
    paths: tuple[str, str, str],
    ids_file: RowsFile,
    place: int,
    chunk: _Chunk,
    others: _Others,
    settings: RecommendSettings,
) -> _Written:
    """Write the best for some rows of a partition."""
    model, dataset, out = paths
    side = side_named(settings.side)
    dtype = others.candidates.weights.dtype.name
    state, _ = model_files.read_state(model, side, chunk.rows, dtype)
    ids = ids_file.read(chunk.rows, ["id"]).column("id")
    rows = np.arange(chunk.rows.start, chunk.rows.stop) if chunk.only is None else chunk.only
    within = rows - chunk.rows.start
    seen = nothing_seen(len(rows))
    if not settings.seen:
        block = read_block(dataset, side, chunk.number, chunk.partition)
        seen = rated_by(block, rows - chunk.partition.start)
    best = top_k(
        Factors(state.bias[within], state.factors[within]),
        others.candidates,
        settings.k,
        seen=seen,
        mean=others.mean,
    )
    deviations = None
    if settings.std:
        biases = model_files.read_biases_of_samples(model, side, chunk.rows)
        samples = Factors(biases[within], state.factors[within])
        deviations = _deviations(model, samples, best, others)
    path = storage.join(out, storage.part_name(place))
    return _write(path, side, ids.take(pa.array(within)), best, deviations, others)


def _recommend_to_unknown(
    model: str, path: str, ids: pa.Array, others: _Others, settings: RecommendSettings
) -> _Written:
    """Write the best for unknown ids, which have the mean bias and no factors."""
    weights = others.candidates.weights
    one = Factors(
        np.array([others.mean_bias], weights.dtype),
        np.zeros((1, weights.shape[1] - 1), weights.dtype),
    )
    best = top_k(one, others.candidates, settings.k, mean=others.mean)
    side, deviations = side_named(settings.side), None
    if settings.std:
        biases = model_files.read_mean_biases_of_samples(model, side)
        deviations = _deviations(model, Factors(biases[None, :], one.factors), best, others)
        deviations = np.repeat(deviations, len(ids), axis=0)
    best = Best(*(np.repeat(values, len(ids), axis=0) for values in best))
    return _write(path, side, ids, best, deviations, others)


def _deviations(model: str, own: Factors, best: Best, others: _Others) -> np.ndarray:
    """Return the standard deviations of the best of each row, in the shape of `best`."""
    assert others.samples is not None, "samples are read if std is requested"
    found = best.rows >= 0
    deviations = np.full(best.scores.shape, np.nan)
    deviations[found] = standard_deviations(
        own,
        others.samples,
        np.nonzero(found)[0],
        others.candidates.place[best.rows[found]],
        residual_precision=sample_files.check_has_samples(
            model_manifest.read_manifest(model), model
        ),
    )
    return deviations


def rated_by(block: Block, rows: np.ndarray) -> Seen:
    """Return the rated rows of some rows of a block, which count from its first row."""
    counts = block.counts[rows]
    indptr = np.concatenate([[0], np.cumsum(counts)])
    places = np.arange(indptr[-1]) + np.repeat(block.indptr[rows] - indptr[:-1], counts)
    return Seen(indptr, block.indices[places])


def _write(
    path: str, side: Side, ids: Any, best: Best, deviations: np.ndarray | None, others: _Others
) -> _Written:
    found = best.rows >= 0
    row, place = np.nonzero(found)
    other = others.ids.take(pa.array(best.rows[found]))
    columns = {
        f"{side.singular}_id": ids.take(pa.array(row)),
        "rank": pa.array((place + 1).astype(np.int32)),
        f"{side.other.singular}_id": other.column("id"),
        "score": pa.array(best.scores[found]),
    }
    if deviations is not None:
        columns["std"] = pa.array(deviations[found])
    if "title" in other.column_names:
        columns["title"] = other.column("title")
    table = pa.table(columns)
    repeated = [name for name in table.column_names if name not in ("score", "std")]
    crc32 = table_files.write_parquet(path, table, dictionaries=repeated)
    return _Written(len(ids), len(row), path, crc32, table.schema)
