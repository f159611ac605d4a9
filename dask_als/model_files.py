"""A model on disk: plain Parquet and JSON, written by the workers, one part a partition.

::

    MODEL/
      model.json                     settings, ranges of the parts, figures; written last
      users/part-00000.parquet …     id, count, bias, factors (fixed-size list of rank floats),
                                     of an average of samples also bias_of_samples
      items/part-00000.parquet …     the same
      history.jsonl                  one object per epoch
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dask_als import storage
from dask_als.blocks import State
from dask_als.dataset import Dataset, Partition, rows_path
from dask_als.errors import InputError
from dask_als.history import EpochFigures
from dask_als.limits import TEXT_BYTES, ParquetLimit
from dask_als.settings import TrainSettings
from dask_als.side import SIDES, USERS, Side

FORMAT_VERSION = 1
MANIFEST = "model.json"
HISTORY = "history.jsonl"

_COLUMNS = ("id", "count", "bias", "factors")
_BIAS_OF_SAMPLES = "bias_of_samples"


@dataclass(frozen=True)
class ModelSide:
    """What model.json says of one side.

    Attributes
    ----------
    digest : str
        SHA-256 of the ids in their order, the dataset's.
    mean_bias : float
        The bias of rows without training ratings, and of unknown ids.
    partitions : tuple of Partition
        The part files' rows, training ratings and CRC-32.
    """

    digest: str
    mean_bias: float
    partitions: tuple[Partition, ...]

    def written(self, checksums: Sequence[int]) -> ModelSide:
        """Return what is said of the side once its parts are written."""
        parts = zip(self.partitions, checksums, strict=True)
        return replace(self, partitions=tuple(replace(part, crc32=crc) for part, crc in parts))


@dataclass(frozen=True)
class ModelManifest:
    """What model.json says.

    Attributes
    ----------
    settings : TrainSettings
    global_mean : float
        What was taken out of the ratings before training.
    rating_min, rating_max : float
        The range of the training ratings.
    dataset : dict
        ``path`` and ``fingerprint`` of the dataset that the model was trained on.
    users, items : ModelSide
    figures : EpochFigures
        Of the last epoch.
    samples : int
        How many epochs' models are averaged: their factors lie side by side.
    residual_precision : float or None
        With gibbs, the inverse of the variance that ratings have around their predictions.
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

    @property
    def rank(self) -> int:
        """Length of a factor vector of the model: a sample's, times the samples."""
        return self.settings.rank * self.samples

    @property
    def knows_deviations(self) -> bool:
        """Whether it has what standard deviations come from: the samples of both sides."""
        return self.samples > 1 and self.residual_precision is not None

    def side(self, side: Side) -> ModelSide:
        """Return what is known of one side."""
        return self.users if side is USERS else self.items

    def with_side(self, side: Side, its: ModelSide) -> ModelManifest:
        """Return it with another side in place of its own."""
        return replace(self, users=its) if side is USERS else replace(self, items=its)


def part_path(model: str, side: Side, number: int) -> str:
    """Return the path of one part of a model."""
    return storage.part_of(model, side.name, storage.part_name(number))


def write_part(
    model: str,
    side: Side,
    number: int,
    ids: pa.Table,
    state: State,
    bias_of_samples: np.ndarray | None = None,
) -> int:
    """Write one part: ids and counts of its rows, with their state.

    Parameters
    ----------
    ids : pyarrow.Table
        Columns ``id`` and ``count``.
    state : State
        Of the same rows.
    bias_of_samples : ndarray, shape (n_rows, n_samples), optional
        For an average of samples, of which `state` has the factors of each, but one bias.

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
    return storage.write_parquet(path, table, dictionaries=["id", "count"])


def state_columns(state: State) -> dict[str, pa.Array]:
    """Return biases and factors as columns, which `state_of` takes back."""
    return {"bias": pa.array(state.bias), "factors": _lists(state.factors)}


def _lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def write_dataset_part(
    model: str,
    dataset: str,
    side: Side,
    number: int,
    partition: Partition,
    state: State,
    bias_of_samples: np.ndarray | None = None,
) -> int:
    """Write the part of a model that belongs to one partition of a dataset; see `write_part`."""
    ids = storage.read_parquet_rows(rows_path(dataset, side), partition.rows, ["id", "count"])
    return write_part(model, side, number, ids, state, bias_of_samples)


def average_of_samples(samples: list[State]) -> State:
    """Return the state whose predictions are the mean of those of all samples.

    The mean of u·v over S samples is one product of vectors S times as long, the samples' divided
    by the root of S and laid side by side.
    """
    bias = np.mean([state.bias for state in samples], axis=0, dtype=np.float64)
    factors = np.concatenate([state.factors for state in samples], axis=1)
    dtype = factors.dtype
    return State(bias.astype(dtype), factors / dtype.type(np.sqrt(len(samples))))


def write_manifest(directory: str, manifest: ModelManifest) -> None:
    """Write what completes the model."""
    value = {"rank": manifest.rank, **asdict(manifest)}
    path = storage.join(directory, MANIFEST)
    storage.write_manifest(path, value, format_version=FORMAT_VERSION)


def write_history(directory: str, history: list[EpochFigures]) -> None:
    """Write the figures of all epochs."""
    path = storage.join(directory, HISTORY)
    storage.write_json_lines(path, [figures.to_json() for figures in history])


def read_history(model: str) -> list[EpochFigures]:
    """Read the figures of all epochs."""
    rows = storage.read_json_lines(storage.part_of(model, HISTORY))
    return [EpochFigures(**row) for row in rows]


def read_manifest(model: str) -> ModelManifest:
    """Read model.json.

    Raises
    ------
    InputError
        If there is no model, or one of another format version, or a damaged one.
    """
    path = storage.part_of(model, MANIFEST)
    if not storage.exists(path):
        what = f"is not a model (no {MANIFEST})" if storage.exists(model) else "is not there"
        raise InputError(f"{model} {what}; make one with: dask-als train")
    value = storage.read_manifest(path, format_version=FORMAT_VERSION)
    try:
        return _manifest_from_json(value)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {storage.first_line(error)}") from None


def _manifest_from_json(value: dict[str, Any]) -> ModelManifest:
    rank, dataset = value.pop("rank"), value["dataset"]
    if not all(isinstance(dataset[name], str) for name in ("path", "fingerprint")):
        raise TypeError("its dataset is not named by texts")
    if type(value.get("samples", 1)) is not int:
        raise TypeError(f"samples is {value['samples']!r}")
    users, items = (_side_from_json(value.pop(side.name)) for side in SIDES)
    settings = TrainSettings(**value.pop("settings"))
    figures = EpochFigures(**value.pop("figures"))
    manifest = ModelManifest(settings=settings, figures=figures, users=users, items=items, **value)
    if manifest.rank != rank:
        raise TypeError(f"rank is {rank}, and {manifest.rank} by its settings")
    return manifest


def _side_from_json(value: dict[str, Any]) -> ModelSide:
    partitions = tuple(Partition(**partition) for partition in value.pop("partitions"))
    return ModelSide(partitions=partitions, **value)


def read_part(
    model: str,
    side: Side,
    number: int,
    partition: Partition,
    columns: Sequence[str] = _COLUMNS,
    *,
    rank: int,
) -> pa.Table:
    """Read one part of a model: by default id, count, bias, factors.

    Parameters
    ----------
    rank : int
        The model's.

    Raises
    ------
    InputError
        If the file is missing, damaged or not the one that belongs there.
    """
    path = part_path(model, side, number)
    # Factors and biases of samples are at most 8 bytes each, and no more samples than the rank.
    limit = ParquetLimit(len(partition.rows), TEXT_BYTES + 16 * rank)
    table = storage.read_parquet(path, list(columns), crc32=partition.crc32, limit=limit)
    if "factors" in columns and (kind := table.schema.field("factors").type).list_size != rank:
        raise InputError(f"{path} is not what {MANIFEST} says: factors of rank {rank}, not {kind}")
    return table


def read_ids(model: str, side: Side, number: int, partition: Partition) -> pa.Table:
    """Read ``id`` and ``count`` of one part."""
    path = part_path(model, side, number)
    limit = ParquetLimit(len(partition.rows), TEXT_BYTES)
    return storage.read_parquet(path, ["id", "count"], crc32=partition.crc32, limit=limit)


def state_of(table: pa.Table) -> State:
    """Return the biases and factors of a table that has them as columns."""
    bias = np.ascontiguousarray(table.column("bias").to_numpy())
    return State(bias, _rows(table.column("factors")))


def biases_of_samples(table: pa.Table) -> np.ndarray:
    """Return the biases of each sample, shape (n_rows, n_samples), of a part that has them."""
    return _rows(table.column(_BIAS_OF_SAMPLES))


def _rows(lists: pa.ChunkedArray) -> np.ndarray:
    combined = lists.combine_chunks()
    rows: np.ndarray = combined.flatten().to_numpy().reshape(len(combined), -1)
    return rows


def read_state(model: str, side: Side, rows: range, dtype: str) -> tuple[State, np.ndarray]:
    """Read the state of a range of rows, from whichever parts hold them.

    Returns
    -------
    State
        As the given dtype.
    ndarray of bool, shape (len(rows),)
        Which rows have training ratings.
    """
    table = _read_rows(model, side, rows, _COLUMNS)
    state = state_of(table)
    state = State(state.bias.astype(dtype), state.factors.astype(dtype))
    return state, table.column("count").to_numpy() > 0


def read_biases_of_samples(model: str, side: Side, rows: range) -> np.ndarray:
    """Read the biases of a range of rows of an average of samples; see `biases_of_samples`."""
    return biases_of_samples(_read_rows(model, side, rows, [_BIAS_OF_SAMPLES]))


def read_mean_biases_of_samples(model: str, side: Side) -> np.ndarray:
    """Read what each sample takes for the bias of an unknown id; float64, shape (n_samples,)."""
    rows = range(read_manifest(model).side(side).partitions[-1].stop)
    table = _read_rows(model, side, rows, ["count", _BIAS_OF_SAMPLES])
    return mean_biases_of_samples(table.column("count").to_numpy(), biases_of_samples(table))


def mean_biases_of_samples(counts: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Return the mean of each sample's biases over the rows with training ratings."""
    rated: np.ndarray = biases[counts > 0]
    return rated.mean(axis=0, dtype=np.float64)


def _read_rows(model: str, side: Side, rows: range, columns: Sequence[str]) -> pa.Table:
    """Read a range of rows, from whichever parts hold them."""
    tables: list[pa.Table] = []
    first = 0
    manifest = read_manifest(model)
    for number, partition in enumerate(manifest.side(side).partitions):
        if partition.start < rows.stop and rows.start < partition.stop:
            first = first if tables else partition.start
            tables.append(read_part(model, side, number, partition, columns, rank=manifest.rank))
    return pa.concat_tables(tables).slice(rows.start - first, len(rows)).combine_chunks()


def columns_of(manifest: ModelManifest) -> Sequence[str]:
    """Return the columns of a model's parts."""
    return (*_COLUMNS, _BIAS_OF_SAMPLES) if manifest.knows_deviations else _COLUMNS


def check_has_samples(manifest: ModelManifest, model: str) -> float:
    """Check that a model is an average of samples, and return its residual precision.

    Raises
    ------
    InputError
        If it is not one, and so knows no standard deviations.
    """
    if not manifest.knows_deviations or manifest.residual_precision is None:
        raise InputError(
            f"{model} is not an average of samples of both sides, so it knows no standard "
            "deviations; train one with --method gibbs"
        )
    return manifest.residual_precision


def check_same_ids(manifest: ModelManifest, dataset: Dataset, model: str) -> None:
    """Check that a model's rows are those of a dataset.

    Raises
    ------
    InputError
        If they are not.
    """
    for side in SIDES:
        if manifest.side(side).digest != dataset.table(side).digest:
            raise InputError(
                f"{model} and {dataset.path} do not belong together: their {side.name} differ; "
                f"the model was trained on {manifest.dataset['path']}"
            )
