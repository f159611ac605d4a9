"""A start from a model of other users, items or ratings: its rows are matched by id.

The start is written as a model with the rows of the dataset, which training then starts from like
from a checkpoint. Rows that the model has trained keep their biases and factors, lengthened if
there are more ratings (`longer_start`). All others are folded in: solved from their ratings against
the other side, in which they count for nothing yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_als.core import storage
from dask_als.core.blocks import Block, Factors
from dask_als.core.executor import Executor
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.data.block_files import read_block
from dask_als.data.dataset import Dataset, Partition, RowsFile
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.initial import InitialModel, MatchedRows
from dask_als.model.manifest import ModelManifest, ModelSide
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import HalfEpoch, Method, SolvedPart, SolvedSide
from dask_als.solvers.choice import fold_in_method_of
from dask_als.solvers.objective import NO_SUMS
from dask_als.training.longer_start import added_length, lengthened, lengthening
from dask_als.training.task_graph import training_mean

_BEFORE_TRAINING = 0


@dataclass(frozen=True)
class _TrainedRows:
    """One side of a model; of an average of samples, its last sample; of a compact one, its mean.

    Attributes
    ----------
    ids : pandas.Index
    state : Factors
        With a last row for ids that the model does not have.
    rated : ndarray of bool, shape (n_rows + 1,)
        Rows that had training ratings.
    """

    ids: pd.Index[Any]
    state: Factors
    rated: np.ndarray

    def __sizeof__(self) -> int:
        return self.state.__sizeof__() + self.rated.nbytes + int(self.ids.memory_usage())


@dataclass(frozen=True)
class _MatchedPart:
    """One partition of a dataset with the state of the rows that the model has trained."""

    part: SolvedPart
    n_known: int

    def __sizeof__(self) -> int:
        return self.part.__sizeof__()


def carry_over(
    model: str, dataset: Dataset, settings: TrainSettings, executor: Executor, directory: str
) -> InitialModel:
    """Write a model with the rows of a dataset, as another model has them.

    Parameters
    ----------
    model : str
        Of the rank that the settings have.
    directory : str
        Where the model is written. It has no history.

    Returns
    -------
    InitialModel
        How many rows are matched.

    Raises
    ------
    InputError
        If the model and the dataset have no id in common, or a file is damaged.
    """
    manifest = model_manifest.read_manifest(model)
    model = storage.absolute(model)
    method = fold_in_method_of(settings, training_mean(dataset, settings))
    length = added_length(manifest, dataset, settings)
    trained = _submit_trained_rows(model, settings, length, executor)
    matched = {side: _submit_matched(dataset, side, trained[side], executor) for side in SIDES}
    sides = {
        side: executor.submit(_join, method, side, parts, key=f"join-start-{side.name}")
        for side, parts in matched.items()
    }
    written = {
        side: [
            executor.submit(
                _write_part,
                (dataset.path, directory),
                dataset.rows_file(side),
                (side, number, partition),
                method,
                matched[side][number],
                sides[side.other],
                key=f"write-start-{side.name}-{number}",
            )
            for number, partition in enumerate(dataset.table(side).partitions)
        ]
        for side in SIDES
    }
    found = {side: executor.gather(handles) for side, handles in written.items()}
    users, items = (
        _matched_rows(manifest, dataset, side, [n_known for n_known, _ in found[side]])
        for side in SIDES
    )
    if not users.known + items.known:
        raise InputError(
            f"{model} and {dataset.path} have no user and no item in common; "
            "check that both have the same kind of ids, or train without --init-from"
        )
    start = replace(
        manifest,
        settings=settings,
        samples=1,
        dataset={"path": dataset.path, "fingerprint": dataset.fingerprint},
        history_crc32=None,
        kept=None,
        compact=None,
    )
    for side in SIDES:
        table = dataset.table(side)
        rows = ModelSide(table.digest, manifest.side(side).mean_bias, table.partitions)
        start = start.with_side(side, rows.written([crc32 for _, crc32 in found[side]]))
    model_manifest.write_manifest(directory, start)
    return InitialModel(model, users, items)


def _submit_trained_rows(
    model: str, settings: TrainSettings, length: float, executor: Executor
) -> dict[Side, Any]:
    """Submit both sides of a model; see `longer_start` for the added length."""
    trained = {
        side: executor.submit(
            _read_trained_rows, model, side, settings, key=f"read-model-{side.name}"
        )
        for side in SIDES
    }
    if not length:
        return trained
    matrices = executor.submit(
        _lengthening, trained[USERS], trained[ITEMS], length, key="lengthening"
    )
    return {
        side: executor.submit(
            _lengthened, side, trained[side], matrices, key=f"lengthen-model-{side.name}"
        )
        for side in SIDES
    }


def _lengthening(users: _TrainedRows, items: _TrainedRows, length: float) -> dict[Side, np.ndarray]:
    return lengthening(users.state, items.state, length)


def _lengthened(
    side: Side, trained: _TrainedRows, matrices: dict[Side, np.ndarray]
) -> _TrainedRows:
    return replace(trained, state=lengthened(trained.state, matrices[side]))


def _submit_matched(dataset: Dataset, side: Side, trained: Any, executor: Executor) -> list[Any]:
    return [
        executor.submit(
            _match,
            dataset.rows_file(side),
            partition,
            trained,
            key=f"match-{side.name}-{number}",
        )
        for number, partition in enumerate(dataset.table(side).partitions)
    ]


def _read_trained_rows(model: str, side: Side, settings: TrainSettings) -> _TrainedRows:
    manifest = model_manifest.read_manifest(model)
    parts = [
        model_files.read_part(model, manifest, side, number, model_files.columns_of(manifest))
        for number in range(len(manifest.side(side).partitions))
    ]
    table = pa.concat_tables(parts).combine_chunks()
    state, dtype = _single_state(table, manifest, settings.rank), settings.dtype
    nothing = np.zeros((1, state.factors.shape[1]))
    return _TrainedRows(
        pd.Index(table["id"].to_pandas()),
        Factors(
            np.append(state.bias, 0).astype(dtype),
            np.concatenate([state.factors, nothing]).astype(dtype),
        ),
        np.append(table["count"].to_numpy() > 0, False),
    )


def _single_state(table: pa.Table, manifest: ModelManifest, rank: int) -> Factors:
    """Return the state of a rank that a model has; of an average, that of the last sample."""
    state = model_files.state_of(table)
    if manifest.compact is not None:
        # Its columns descend by their singular values.
        factors = state.factors[:, :rank]
        missing = np.zeros((len(factors), rank - factors.shape[1]), factors.dtype)
        return Factors(state.bias, np.concatenate([factors, missing], axis=1))
    if manifest.samples == 1:
        return state
    # An average holds the factors of all samples, divided by the root of their number.
    bias = model_files.biases_of_samples(table)[:, -1]
    root = state.factors.dtype.type(np.sqrt(manifest.samples))
    return Factors(bias, state.factors[:, -rank:] * root)


def _match(ids_file: RowsFile, partition: Partition, trained: _TrainedRows) -> _MatchedPart:
    """Return the state of a partition's rows; those that the model has not trained have none."""
    ids = ids_file.read(partition.rows, ["id"])["id"]
    rows = trained.ids.get_indexer(pd.Index(ids.to_pandas()))
    state = Factors(trained.state.bias[rows], trained.state.factors[rows])
    return _MatchedPart(SolvedPart(state, trained.rated[rows], NO_SUMS), int((rows >= 0).sum()))


def _join(method: Method, side: Side, parts: list[_MatchedPart]) -> SolvedSide:
    """Return a side of which untrained rows have the mean bias and no factors."""
    started = [method.start_part(its.part.solution, its.part.rated) for its in parts]
    return method.join_parts(HalfEpoch(side, _BEFORE_TRAINING), started)


def _write_part(
    directories: tuple[str, str],
    ids_file: RowsFile,
    place: tuple[Side, int, Partition],
    method: Method,
    matched: _MatchedPart,
    fixed: SolvedSide,
) -> tuple[int, int]:
    """Fold in the rows that are new, and write a partition; return matched rows and CRC-32."""
    dataset, directory = directories
    side, number, partition = place
    state = matched.part.solution
    new = np.flatnonzero(~matched.part.rated)
    if len(new):
        block = rows_of_block(read_block(dataset, side, number, partition), new)
        own = SolvedSide(Factors(state.bias[new], state.factors[new]), NO_SUMS, 0.0)
        solved = method.solve_part(HalfEpoch(side, _BEFORE_TRAINING), block, own, fixed).solution
        state = Factors(state.bias.copy(), state.factors.copy())
        state.bias[new], state.factors[new] = solved.bias, solved.factors
    ids = ids_file.read(partition.rows, ["id", "count"])
    return matched.n_known, model_files.write_part(directory, side, number, ids, state)


def rows_of_block(block: Block, rows: np.ndarray) -> Block:
    """Return some rows of a block, numbered from 0.

    Parameters
    ----------
    rows : ndarray of int64
        Positions in the block, ascending.
    """
    counts = block.counts
    is_wanted = np.zeros(len(counts), dtype=bool)
    is_wanted[rows] = True
    of_rating = np.repeat(is_wanted, counts)
    indptr = np.concatenate([[0], np.cumsum(counts[rows])]).astype(np.int64)
    return block.of_ratings(of_rating, range(len(rows)), indptr)


def _matched_rows(
    manifest: ModelManifest, dataset: Dataset, side: Side, known: Sequence[int]
) -> MatchedRows:
    n_known = sum(known)
    return MatchedRows(
        known=n_known,
        new=dataset.table(side).n_rows - n_known,
        gone=manifest.side(side).n_rows - n_known,
    )
