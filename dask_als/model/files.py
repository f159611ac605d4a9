"""A model on disk: plain Parquet and JSON, one part per partition, written by the workers.

::

    MODEL/
      model.json                     settings, ranges of the parts, figures; written last
      users/part-00000.parquet …     id, count, bias, factors (fixed-size list of rank floats);
                                     an average of samples also has bias_of_samples
      items/part-00000.parquet …     the same
      new_users.parquet              of a compact model: the prior of new rows
      new_items.parquet              the same
      history.jsonl                  one object per epoch
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dask_als.core import json_files, storage, table_files
from dask_als.core.blocks import Factors
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.limits import TEXT_BYTES, ParquetLimit
from dask_als.core.side import Side
from dask_als.core.typed_tables import from_manifest
from dask_als.data.dataset import RowsFile
from dask_als.errors import InputError
from dask_als.model.manifest import HISTORY, ModelManifest, part_path, read_manifest

_COLUMNS = ("id", "count", "bias", "factors")
_BIAS_OF_SAMPLES = "bias_of_samples"


def write_part(
    model: str,
    side: Side,
    number: int,
    ids: pa.Table,
    state: Factors,
    bias_of_samples: np.ndarray | None = None,
) -> int:
    """Write one part: ids, counts, biases and factors of its rows.

    Parameters
    ----------
    ids : pyarrow.Table
        Columns ``id`` and ``count``.
    state : Factors
        Biases and factors of the same rows.
    bias_of_samples : ndarray, shape (n_rows, n_samples), optional
        For an average of samples: `state` has the factors of each sample, but only one bias.

    Returns
    -------
    int
        The file's CRC-32.
    """
    columns = {
        "id": ids.column("id"),
        "count": ids.column("count"),
        **state_columns(state),
    }
    if bias_of_samples is not None:
        columns[_BIAS_OF_SAMPLES] = _lists(bias_of_samples)
    table = pa.table(columns)
    path = part_path(model, side, number)
    return table_files.write_parquet(path, table, dictionaries=["id", "count"])


def state_columns(state: Factors) -> dict[str, pa.Array]:
    """Return biases and factors as columns; the inverse of `state_of`."""
    return {"bias": pa.array(state.bias), "factors": _lists(state.factors)}


def _lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def write_dataset_part(
    model: str,
    ids: RowsFile,
    side: Side,
    number: int,
    rows: range,
    state: Factors,
    bias_of_samples: np.ndarray | None = None,
) -> int:
    """Write the part for one partition of a dataset; see `write_part`."""
    table = ids.read(rows, ["id", "count"])
    return write_part(model, side, number, table, state, bias_of_samples)


def write_history(directory: str, history: list[EpochFigures]) -> int:
    """Write the figures of all epochs; return the file's CRC-32."""
    path = storage.join(directory, HISTORY)
    return json_files.write_json_lines(path, [figures.to_json() for figures in history])


def read_history(model: str, manifest: ModelManifest | None = None) -> list[EpochFigures]:
    """Read the figures of all epochs.

    Parameters
    ----------
    manifest : ModelManifest, optional
        That of the model; by default, it is read.

    Raises
    ------
    InputError
        If the file is missing, damaged or does not belong to the model.
    """
    path = storage.part_of(model, HISTORY)
    manifest = manifest or read_manifest(model)
    rows = json_files.read_json_lines(path, crc32=manifest.history_crc32)
    history = [from_manifest(EpochFigures, row, path) for row in rows]
    # Models of earlier releases have no checksum of the history.
    if [figures.epoch for figures in history] != list(range(1, len(history) + 1)):
        raise InputError(f"{path} is damaged: its epochs do not follow one another from 1")
    if manifest.figures not in history:
        raise InputError(f"{path} is damaged: it is without epoch {manifest.figures.epoch}")
    return history


def read_part(
    model: str,
    manifest: ModelManifest,
    side: Side,
    number: int,
    columns: Sequence[str] = _COLUMNS,
) -> pa.Table:
    """Read one part of a model: by default id, count, bias, factors.

    Raises
    ------
    InputError
        If the file is missing, damaged or does not belong to the model.
    """
    path = part_path(model, side, number)
    part, rank = manifest.side(side).partitions[number], manifest.rank
    # At most 8 bytes for each factor and each bias of a sample; samples <= rank.
    limit = ParquetLimit(len(part.rows), TEXT_BYTES + 16 * rank)
    table = table_files.read_parquet(path, list(columns), crc32=part.crc32, limit=limit)
    expected = _types(manifest)
    for field in table.schema:
        if field.type != expected.get(field.name, field.type):
            raise InputError(
                f"{path} is not what the manifest says: {field.name} is {field.type}, "
                f"it should be {expected[field.name]}"
            )
    return table


def _types(manifest: ModelManifest) -> dict[str, pa.DataType]:
    """Return the types of the columns of parts; the type of ids is that of the source."""
    number = pa.from_numpy_dtype(manifest.settings.dtype)
    return {
        "count": pa.int64(),
        "bias": number,
        "factors": pa.list_(number, manifest.rank),
        _BIAS_OF_SAMPLES: pa.list_(number, manifest.samples),
    }


def read_ids(model: str, manifest: ModelManifest, side: Side, number: int) -> pa.Table:
    """Read ``id`` and ``count`` of one part."""
    return read_part(model, manifest, side, number, ("id", "count"))


def state_of(table: pa.Table) -> Factors:
    """Return biases and factors from the columns of a table; the inverse of `state_columns`."""
    bias = np.ascontiguousarray(table.column("bias").to_numpy())
    return Factors(bias, _rows(table.column("factors")))


def biases_of_samples(table: pa.Table) -> np.ndarray:
    """Return the bias of each row in each sample, shape (n_rows, n_samples)."""
    return _rows(table.column(_BIAS_OF_SAMPLES))


def _rows(lists: pa.ChunkedArray) -> np.ndarray:
    combined = lists.combine_chunks()
    rows: np.ndarray = combined.flatten().to_numpy().reshape(len(combined), -1)
    return rows


def read_state(model: str, side: Side, rows: range, dtype: str) -> tuple[Factors, np.ndarray]:
    """Read the state of a range of rows from the parts that hold them.

    Returns
    -------
    Factors
        Of the given dtype.
    ndarray of bool, shape (len(rows),)
        Which rows have training ratings.
    """
    table = _read_rows(model, side, rows, _COLUMNS)
    state = state_of(table)
    state = Factors(state.bias.astype(dtype), state.factors.astype(dtype))
    return state, table.column("count").to_numpy() > 0


def read_biases_of_samples(model: str, side: Side, rows: range) -> np.ndarray:
    """Read the biases of a range of rows of an average of samples; see `biases_of_samples`."""
    return biases_of_samples(_read_rows(model, side, rows, [_BIAS_OF_SAMPLES]))


def read_mean_biases_of_samples(model: str, side: Side) -> np.ndarray:
    """Read the bias of an unknown id in each sample; float64, shape (n_samples,)."""
    rows = range(read_manifest(model).side(side).n_rows)
    table = _read_rows(model, side, rows, ["count", _BIAS_OF_SAMPLES])
    return mean_biases_of_samples(table.column("count").to_numpy(), biases_of_samples(table))


def mean_biases_of_samples(counts: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Return the mean of each sample's biases over the rows with training ratings."""
    rated: np.ndarray = biases[counts > 0]
    return rated.mean(axis=0, dtype=np.float64)


def _read_rows(model: str, side: Side, rows: range, columns: Sequence[str]) -> pa.Table:
    """Read a range of rows from the parts that hold them."""
    tables: list[pa.Table] = []
    first = 0
    manifest = read_manifest(model)
    for number, partition in enumerate(manifest.side(side).partitions):
        if partition.start < rows.stop and rows.start < partition.stop:
            first = first if tables else partition.start
            tables.append(read_part(model, manifest, side, number, columns))
    if not tables or manifest.side(side).n_rows < rows.stop:
        raise InputError(f"{model} has no {side.name} up to row {rows.stop:,}")
    return pa.concat_tables(tables).slice(rows.start - first, len(rows)).combine_chunks()


def columns_of(manifest: ModelManifest) -> Sequence[str]:
    """Return the columns of a model's parts."""
    return (*_COLUMNS, _BIAS_OF_SAMPLES) if manifest.knows_deviations else _COLUMNS
