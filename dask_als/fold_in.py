"""Factors for new users, or items, from their ratings, by the kernel that training uses.

::

    OUT/
      fold_in.json                   model, counts; written last
      users/part-00000.parquet …     id, count, bias, factors, as in a model (or items/)
      ratings/                       the ratings, prepared: with those rejected, and why

A row that the model knows starts from its factors there, which its bias depends on: it gets what
the next half-epoch would give it. All others start from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_als import model_files, storage
from dask_als.blocks import Block, State, block_of, concatenated, zero_state
from dask_als.dataset import Dataset, Partition, read_block, rows_path
from dask_als.errors import InputError
from dask_als.executor import Executor
from dask_als.half_epoch import HalfEpoch, SolvedSide
from dask_als.methods import fold_in_method_of
from dask_als.objective import NO_SUMS
from dask_als.prepare import prepare
from dask_als.settings import Columns, PrepareSettings
from dask_als.side import Side

FORMAT_VERSION = 1
MANIFEST = "fold_in.json"
RATINGS = "ratings"


@dataclass(frozen=True)
class Folded:
    """What was folded in.

    Attributes
    ----------
    rows : int
        Users, or items, that were solved.
    known : int
        Those of them that the model has trained.
    ratings : int
        That they were solved from.
    ratings_of_unknown : int
        Left out, as they are of rows of the other side that the model does not know.
    """

    rows: int
    known: int
    ratings: int
    ratings_of_unknown: int


@dataclass(frozen=True)
class _Trained:
    """What a model says of both sides.

    Attributes
    ----------
    own : State
        Of the folded side, with a last row of zeros for what is new.
    own_ids : pandas.Index
    fixed : SolvedSide
    place : ndarray of int32
        Where rows of the ratings' other side stand in the model; -1 for unknown ones.
    mean_bias : float
        For rows without a rating that counts.
    """

    own: State
    own_ids: pd.Index[int]
    fixed: SolvedSide
    place: np.ndarray
    mean_bias: float


def fold_in(
    ratings: str,
    model: str,
    out: str,
    executor: Executor,
    side: Side,
    *,
    columns: Columns = Columns(),
    partitions: int | None = None,
    overwrite: bool = False,
    preparing: Callable[[str, int, int], None] = lambda stage, done, total: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Folded:
    """Solve users, or items, from their ratings, with the other side as a model has it.

    Parameters
    ----------
    ratings : str
        A source that `prepare` reads.
    model : str
        A model directory that all workers see.
    out : str
        The directory to write.
    side : Side
        What is folded in.
    columns : Columns, optional
        Of `ratings`.
    partitions : int, optional
        Of each side of the ratings; None chooses by their number.
    overwrite : bool, optional
    preparing, progress : callable, optional
        Told how far reading, and solving, are.

    Raises
    ------
    InputError
        If ratings or model cannot be read, no rating is of anything the model knows, or `out` is
        there already.
    """
    model_files.read_manifest(model)
    model = storage.absolute(model)
    with storage.staged_directory(out, manifest=MANIFEST, overwrite=overwrite) as staging:
        dataset = prepare(
            ratings,
            storage.join(staging, RATINGS),
            executor,
            columns=columns,
            settings=PrepareSettings(partitions=partitions),
            progress=preparing,
        )
        trained = executor.submit(_read_trained, model, dataset, side, key=f"model-{side.name}")
        parts = [
            executor.submit(
                _fold_in_part,
                (model, dataset.path, staging),
                side,
                number,
                partition,
                trained,
                key=f"fold-in-{side.name}-{number}",
            )
            for number, partition in enumerate(dataset.table(side).partitions)
        ]
        rows = known = used = 0
        progress(0, len(parts))
        for done, counts in enumerate(executor.as_completed(parts), start=1):
            rows, known, used = rows + counts[0], known + counts[1], used + counts[2]
            progress(done, len(parts))
        if not used:
            raise InputError(f"none of the ratings is of {side.other.name} that {model} knows")
        folded = Folded(rows, known, used, dataset.n_ratings - used)
        about = {"model": model, "side": side.name, **asdict(folded)}
        path = storage.join(staging, MANIFEST)
        storage.write_manifest(path, about, format_version=FORMAT_VERSION)
    return folded


def renumbered(block: Block, place: np.ndarray) -> Block:
    """Give columns of a block other numbers, and leave out those whose number is -1."""
    columns = place[block.indices]
    keep = columns >= 0
    row, columns, ratings = block.row_of_rating[keep], columns[keep], block.ratings[keep]
    order = np.lexsort((columns, row))
    return block_of(block.rows, row[order], columns[order], ratings[order])


def _read_trained(model: str, dataset: Dataset, side: Side) -> _Trained:
    manifest = model_files.read_manifest(model)
    settings = manifest.settings
    own_ids, own, _ = _read_side(model, side)
    fixed_ids, state, rated = _read_side(model, side.other)
    method = fold_in_method_of(settings, manifest.global_mean)
    step = HalfEpoch(side.other, settings.epochs)
    ids = pd.Index(dataset.read_rows(side.other).column("id").to_pandas())
    nothing = zero_state(range(1), rank=manifest.rank, dtype=settings.dtype)
    return _Trained(
        own=concatenated([own, nothing]),
        own_ids=own_ids,
        fixed=method.join_parts(step, [method.start_part(state, rated)]),
        place=fixed_ids.get_indexer(ids).astype(np.int32),
        mean_bias=manifest.side(side).mean_bias,
    )


def _read_side(model: str, side: Side) -> tuple[pd.Index[int], State, np.ndarray]:
    """Return ids, state and which rows have training ratings."""
    partitions = model_files.read_manifest(model).side(side).partitions
    table = pa.concat_tables(
        [model_files.read_part(model, side, n, part) for n, part in enumerate(partitions)]
    ).combine_chunks()
    ids = pd.Index(table.column("id").to_pandas())
    return ids, model_files.state_of(table), table.column("count").to_numpy() > 0


def _fold_in_part(
    paths: tuple[str, str, str], side: Side, number: int, partition: Partition, trained: _Trained
) -> tuple[int, int, int]:
    """Solve and write one partition; return its rows, those known, and the ratings used."""
    model, dataset, out = paths
    manifest = model_files.read_manifest(model)
    stored = read_block(dataset, side, number, partition)
    block = renumbered(
        Block(range(len(stored.rows)), stored.indptr, stored.indices, stored.ratings),
        trained.place,
    )
    ids = storage.read_parquet_rows(rows_path(dataset, side), partition.rows, ["id"])
    rows = trained.own_ids.get_indexer(pd.Index(ids.column("id").to_pandas()))
    own = State(trained.own.bias[rows], trained.own.factors[rows])
    solved = fold_in_method_of(manifest.settings, manifest.global_mean).solve_part(
        HalfEpoch(side, manifest.settings.epochs),
        block,
        SolvedSide(own, NO_SUMS, trained.mean_bias),
        trained.fixed,
    )
    bias = np.where(solved.rated, solved.state.bias, own.bias.dtype.type(trained.mean_bias))
    table = ids.append_column("count", pa.array(block.counts))
    model_files.write_part(out, side, number, table, State(bias, solved.state.factors))
    return len(rows), int((rows >= 0).sum()), len(block.indices)
