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
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dask_als.core import json_files, storage, table_files
from dask_als.core.blocks import Factors
from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.limits import TEXT_BYTES, ParquetLimit
from dask_als.core.side import SIDES, USERS, Side
from dask_als.core.typed_tables import from_manifest
from dask_als.data.dataset import Dataset, Partition, RowsFile, mistake_in_ranges
from dask_als.errors import InputError
from dask_als.model.compact import Compact
from dask_als.model.initial import InitialModel
from dask_als.model.row_prior_files import RowPriorFiles
from dask_als.settings.training import TrainSettings

FORMAT_VERSION = 1
MANIFEST = "model.json"
HISTORY = "history.jsonl"

_COLUMNS = ("id", "count", "bias", "factors")
_BIAS_OF_SAMPLES = "bias_of_samples"


@dataclass(frozen=True)
class ModelSide:
    """The entry of one side in model.json.

    Attributes
    ----------
    digest : str
        SHA-256 of the ids in the order of the dataset.
    mean_bias : float
        The bias of rows without training ratings, and of unknown ids.
    partitions : tuple of Partition
        Rows, training ratings and CRC-32 of the part files.
    new_rows_crc32 : int or None
        For a compact model, CRC-32 of the prior of new rows.
    """

    digest: str
    mean_bias: float
    partitions: tuple[Partition, ...]
    new_rows_crc32: int | None = None

    @property
    def n_rows(self) -> int:
        """Rows of the side."""
        return self.partitions[-1].stop

    def written(self, checksums: Sequence[int]) -> ModelSide:
        """Return the entry of a side whose parts have these checksums."""
        parts = zip(self.partitions, checksums, strict=True)
        return replace(self, partitions=tuple(replace(part, crc32=crc) for part, crc in parts))


@dataclass(frozen=True)
class KeptFiles:
    """CRC-32 of the files that resuming from a checkpoint reads in addition to the model.

    Attributes
    ----------
    predictions : tuple of int
        The sums of predictions of held-out ratings, a file for each partition that has some.
    samples : tuple of int or None
        The manifests of the samples so far, in order; None for one that an earlier release
        wrote.
    reduction : int or None
        The manifest of the newest reduction of samples, if there is one. The samples that it
        covers may have been removed.
    user_row_prior, item_row_prior : RowPriorFiles or None
        The files of each side with attributes.
    """

    predictions: tuple[int, ...] = ()
    samples: tuple[int | None, ...] = ()
    reduction: int | None = None
    user_row_prior: RowPriorFiles | None = None
    item_row_prior: RowPriorFiles | None = None

    def row_prior(self, side: Side) -> RowPriorFiles | None:
        """Return the row prior files of one side."""
        return self.user_row_prior if side is USERS else self.item_row_prior


@dataclass(frozen=True)
class ModelManifest:
    """The contents of model.json.

    Attributes
    ----------
    settings : TrainSettings
    global_mean : float
        Subtracted from the ratings before training.
    rating_min, rating_max : float
        The range of the training ratings.
    dataset : dict
        ``path`` and ``fingerprint`` of the dataset that the model was trained on.
    users, items : ModelSide
    figures : EpochFigures
        Of the last epoch.
    samples : int
        How many samples the model averages: their factors are concatenated.
    residual_precision : float or None
        With gibbs, the inverse of the variance of ratings around their predictions.
    history_crc32 : int or None
        CRC-32 of the file of all epochs' figures; None if it is not known.
    kept : KeptFiles or None
        For a checkpoint, the other files that resuming reads; None if they are not known.
    compact : Compact or None
        For a compact model, what it was made of.
    initial : InitialModel or None
        The model that training started from; None if there was none.
    """

    settings: TrainSettings
    global_mean: float
    rating_min: float
    rating_max: float
    dataset: dict[str, str]
    users: ModelSide
    items: ModelSide
    figures: EpochFigures
    samples: int = 1
    residual_precision: float | None = None
    history_crc32: int | None = None
    kept: KeptFiles | None = None
    compact: Compact | None = None
    initial: InitialModel | None = None

    @property
    def rank(self) -> int:
        """Length of a factor vector of the model."""
        if self.compact is not None:
            return self.compact.rank
        return self.settings.rank * self.samples

    @property
    def knows_deviations(self) -> bool:
        """Whether it holds the samples of both sides, which standard deviations need."""
        return self.samples > 1 and self.residual_precision is not None

    def side(self, side: Side) -> ModelSide:
        """Return the entry of one side."""
        return self.users if side is USERS else self.items

    def files(self, model: str) -> dict[str, int]:
        """Return the path of every file of the model at `model`, and the file's CRC-32."""
        found = {
            part_path(model, side, number): part.crc32
            for side in SIDES
            for number, part in enumerate(self.side(side).partitions)
        }
        for side in SIDES:
            crc32 = self.side(side).new_rows_crc32
            if crc32 is not None:
                found[new_rows_path(model, side)] = crc32
        if self.history_crc32 is not None:
            found[storage.join(model, HISTORY)] = self.history_crc32
        return found

    def with_side(self, side: Side, entry: ModelSide) -> ModelManifest:
        """Return the manifest with another entry for a side."""
        return replace(self, users=entry) if side is USERS else replace(self, items=entry)


def part_path(model: str, side: Side, number: int) -> str:
    """Return the path of one part of a model."""
    return storage.part_of(model, side.name, storage.part_name(number))


def new_rows_path(model: str, side: Side) -> str:
    """Return the path of the prior of new rows of a compact model."""
    return storage.part_of(model, f"new_{side.name}.parquet")


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


def write_manifest(directory: str, manifest: ModelManifest) -> None:
    """Write model.json, which completes the model."""
    value = {"rank": manifest.rank, **asdict(manifest)}
    path = storage.join(directory, MANIFEST)
    json_files.write_manifest(path, value, format_version=FORMAT_VERSION)


def write_history(directory: str, history: list[EpochFigures]) -> int:
    """Write the figures of all epochs; return the file's CRC-32."""
    path = storage.join(directory, HISTORY)
    return json_files.write_json_lines(path, [figures.to_json() for figures in history])


def read_history(model: str) -> list[EpochFigures]:
    """Read the figures of all epochs.

    Raises
    ------
    InputError
        If the file is missing, damaged or does not belong to the model.
    """
    path = storage.part_of(model, HISTORY)
    manifest = read_manifest(model)
    rows = json_files.read_json_lines(path, crc32=manifest.history_crc32)
    history = [from_manifest(EpochFigures, row, path) for row in rows]
    # Models of earlier releases have no checksum of the history.
    if [figures.epoch for figures in history] != list(range(1, len(history) + 1)):
        raise InputError(f"{path} is damaged: its epochs do not follow one another from 1")
    if manifest.figures not in history:
        raise InputError(f"{path} is damaged: it is without epoch {manifest.figures.epoch}")
    return history


def read_manifest(model: str) -> ModelManifest:
    """Read model.json.

    Raises
    ------
    InputError
        If there is no model, or it is damaged or of another format version.
    """
    path = storage.part_of(model, MANIFEST)
    if not storage.exists(path):
        what = f"is not a model (no {MANIFEST})" if storage.exists(model) else "is not there"
        raise InputError(f"{model} {what}; make one with: dask-als train")
    value: dict[str, Any] = json_files.read_manifest(path, format_version=FORMAT_VERSION)
    rank = value.pop("rank", None)
    manifest = from_manifest(ModelManifest, value, path)
    mistake = _mistake_in(manifest, rank)
    if mistake is not None:
        raise InputError(f"{path} is damaged: {mistake}")
    return manifest


def _mistake_in(manifest: ModelManifest, rank: object) -> str | None:
    """Return the first contradiction in a manifest of the right types; None if there is none."""
    if manifest.samples < 1 or rank != manifest.rank:
        return f"rank is {rank!r}; it must be {manifest.rank}"
    for name in ("path", "fingerprint"):
        if name not in manifest.dataset:
            return f"dataset.{name} is missing"
    for side in SIDES:
        partitions = manifest.side(side).partitions
        mistake = mistake_in_ranges(partitions) if partitions else f"{side.name} has no partitions"
        if mistake is not None:
            return mistake
    return None


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


def check_same_ids(manifest: ModelManifest, dataset: Dataset, model: str) -> None:
    """Check that a model's rows are those of a dataset.

    Raises
    ------
    InputError
        If they are not.
    """
    for side in SIDES:
        own, ids = manifest.side(side), dataset.table(side)
        if (own.digest, own.n_rows) != (ids.digest, ids.n_rows):
            raise InputError(
                f"{model} and {dataset.path} do not belong together: their {side.name} differ; "
                f"the model was trained on {manifest.dataset['path']}"
            )
