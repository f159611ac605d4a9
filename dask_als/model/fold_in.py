"""Factors of new users or items from their ratings, with the kernel of training.

The output is a model, so every command accepts it::

    OUT/
      model.json                     that of the model, with the folded side replaced
      users/part-00000.parquet …     id, count, bias, factors of the folded rows (or items/)
      items/part-00000.parquet …     the other side of the model, unchanged (or users/)
      history.jsonl                  that of the model
      fold_in.json                   the path of the model, and counts
      ratings/                       the ratings as a dataset; its other side has the model's order

A row that the model knows starts from its factors in the model, as its bias depends on them: the
result is that of the next half-epoch. A row that only had attributes keeps the prior mean that they
predict. All other rows start from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_als.core import checksums, json_files, storage
from dask_als.core.blocks import Factors, concatenated, zero_factors
from dask_als.core.executor import Executor
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import FOLDED_MODEL
from dask_als.core.side import ITEMS, SIDES, Side
from dask_als.data.block_files import read_block
from dask_als.data.dataset import Dataset, Partition, RowsFile
from dask_als.data.prepare import KnownRows, prepare
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.manifest import ModelManifest, ModelSide
from dask_als.model.new_row_files import read_both
from dask_als.model.row_solver import fold_in_method
from dask_als.model.training_data import dataset_of
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.solvers.base import HalfEpoch, SolvedSide
from dask_als.solvers.new_row_prior import NewRowPrior
from dask_als.solvers.objective import NO_SUMS
from dask_als.solvers.row_prior import RowPrior

ABOUT = "fold_in.json"
RATINGS = "ratings"


@dataclass(frozen=True)
class Folded:
    """Counts of a fold-in.

    Attributes
    ----------
    rows : int
        Users or items that were solved.
    known : int
        Those of them that are in the model.
    ratings : int
        Ratings that they were solved from.
    ratings_of_unknown : int
        Ratings that were left out, as the model does not know the row of the other side.
    """

    rows: int
    known: int
    ratings: int
    ratings_of_unknown: int


@dataclass(frozen=True)
class _Trained:
    """Both sides of a model, as fold-in needs them.

    Attributes
    ----------
    own : Factors
        The folded side, with a last row of zeros for new ids.
    prior_means : ndarray, shape (n_rows + 1, rank)
        The factors of rows without ratings, which their attributes predict; 0 for all others.
    own_ids : pandas.Index
    fixed : SolvedSide
    mean_bias : float
        The bias of rows without a usable rating.
    priors : dict of Side to NewRowPrior
        The priors of new rows, if the model has them.
    """

    own: Factors
    prior_means: np.ndarray
    own_ids: pd.Index[int]
    fixed: SolvedSide
    mean_bias: float
    priors: dict[Side, NewRowPrior]


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
    """Solve users or items from their ratings, with the other side of a model fixed.

    Parameters
    ----------
    ratings : str
        A source that `prepare` reads.
    model : str
        A model directory that all workers can read.
    out : str
        The model directory to write.
    side : Side
        The side that is folded in.
    columns : Columns, optional
        Of `ratings`.
    partitions : int, optional
        Partitions of each side; None chooses by the number of ratings.
    overwrite : bool, optional
    preparing, progress : callable, optional
        Called with the progress of reading and of solving.

    Raises
    ------
    InputError
        If ratings or model cannot be read, no rating is of a row that the model knows, or `out`
        exists.
    """
    manifest = model_manifest.read_manifest(model)
    model = storage.absolute(model)
    read = [ratings, model]
    with staged_directory(out, FOLDED_MODEL, overwrite=overwrite, inputs=read) as staging:
        dataset = prepare(
            ratings,
            storage.join(staging, RATINGS),
            executor,
            columns=columns,
            settings=PrepareSettings(partitions=partitions),
            known=_known_rows(model, manifest, side.other, executor),
            progress=preparing,
        )
        trained = executor.submit(_read_trained, model, side, key=f"model-{side.name}")
        solved = [
            executor.submit(
                _fold_in_part,
                (model, dataset.path, staging),
                side,
                number,
                partition,
                dataset.rows_file(side),
                trained,
                key=f"fold-in-{side.name}-{number}",
            )
            for number, partition in enumerate(dataset.table(side).partitions)
        ]
        copied = [
            executor.submit(
                _copy_part,
                (model, staging),
                side.other,
                number,
                part.crc32,
                key=f"copy-{side.other.name}-{number}",
            )
            for number, part in enumerate(manifest.side(side.other).partitions)
        ]
        copied += [
            executor.submit(
                _copy_new_rows, (model, staging), each, crc32, key=f"copy-new-{each.name}"
            )
            for each in SIDES
            if (crc32 := manifest.side(each).new_rows_crc32) is not None
        ]
        _wait([*solved, *copied], executor, progress)
        parts = executor.gather(solved)
        folded = Folded(
            rows=dataset.table(side).n_rows,
            known=sum(known for known, _ in parts),
            ratings=dataset.n_ratings,
            ratings_of_unknown=dataset.source["unknown"],
        )
        about = {"model": model, "side": side.name, **asdict(folded)}
        json_files.write_json(storage.join(staging, ABOUT), about)
        crc32 = model_files.write_history(staging, model_files.read_history(model))
        checksums = [checksum for _, checksum in parts]
        folded_manifest = _folded_manifest(manifest, dataset, side, out, checksums)
        model_manifest.write_manifest(staging, replace(folded_manifest, history_crc32=crc32))
    return folded


def _wait(handles: list[object], executor: Executor, progress: Callable[[int, int], None]) -> None:
    progress(0, len(handles))
    for done, _ in enumerate(executor.as_completed(handles), start=1):
        progress(done, len(handles))


def _known_rows(model: str, manifest: ModelManifest, side: Side, executor: Executor) -> KnownRows:
    """Return the model's rows of the fixed side, with titles if its dataset is found."""
    dataset = dataset_of(manifest, model, None) if side is ITEMS else None
    titled = dataset if dataset is not None and dataset.has_titles else None
    first = model_files.read_ids(model, manifest, side, 0)
    return KnownRows(
        side,
        executor.submit(_read_known, model, side, titled, key=f"known-{side.name}"),
        first.schema.field("id").type,
        has_titles=titled is not None,
    )


def _read_known(model: str, side: Side, titled: Dataset | None) -> pa.Table:
    if titled is not None:
        return titled.read_rows(side)
    manifest = model_manifest.read_manifest(model)
    numbers = range(len(manifest.side(side).partitions))
    return pa.concat_tables([model_files.read_ids(model, manifest, side, n) for n in numbers])


def _folded_manifest(
    manifest: ModelManifest, dataset: Dataset, side: Side, out: str, checksums: list[int]
) -> ModelManifest:
    table = dataset.table(side)
    partitions = tuple(
        Partition(part.start, part.stop, part.ratings, crc32=checksum)
        for part, checksum in zip(table.partitions, checksums, strict=True)
    )
    trained = manifest.side(side)
    folded = ModelSide(table.digest, trained.mean_bias, partitions, trained.new_rows_crc32)
    path = storage.join(storage.absolute(out), RATINGS)
    reference = {"path": path, "fingerprint": dataset.fingerprint}
    # Rows that are solved from the average of the samples have no samples of their own.
    precision = None if manifest.compact is None else manifest.residual_precision
    without = replace(manifest, dataset=reference, residual_precision=precision, kept=None)
    return without.with_side(side, folded)


def _read_trained(model: str, side: Side) -> _Trained:
    manifest = model_manifest.read_manifest(model)
    settings = manifest.settings
    own_ids, own, own_rated = _read_side(model, side)
    _, state, rated = _read_side(model, side.other)
    method = fold_in_method(manifest, read_both(model, manifest))
    step = HalfEpoch(side.other, settings.epochs)
    nothing = zero_factors(range(1), rank=manifest.rank, dtype=settings.dtype)
    with_new = concatenated([own, nothing])
    return _Trained(
        own=with_new,
        prior_means=np.where(np.append(own_rated, True)[:, None], 0, with_new.factors),
        own_ids=own_ids,
        fixed=method.join_parts(step, [method.start_part(state, rated)]),
        mean_bias=manifest.side(side).mean_bias,
        priors=read_both(model, manifest),
    )


def _read_side(model: str, side: Side) -> tuple[pd.Index[int], Factors, np.ndarray]:
    """Return ids, state and whether each row has training ratings."""
    manifest = model_manifest.read_manifest(model)
    parts = [
        model_files.read_part(model, manifest, side, number)
        for number in range(len(manifest.side(side).partitions))
    ]
    table = pa.concat_tables(parts).combine_chunks()
    ids = pd.Index(table.column("id").to_pandas())
    return ids, model_files.state_of(table), table.column("count").to_numpy() > 0


def _copy_part(models: tuple[str, str], side: Side, number: int, crc32: int) -> None:
    source, target = (model_manifest.part_path(model, side, number) for model in models)
    checksums.copy(source, target, crc32=crc32)


def _copy_new_rows(models: tuple[str, str], side: Side, crc32: int) -> None:
    source, target = (model_manifest.new_rows_path(model, side) for model in models)
    checksums.copy(source, target, crc32=crc32)


def _fold_in_part(
    paths: tuple[str, str, str],
    side: Side,
    number: int,
    partition: Partition,
    ids_file: RowsFile,
    trained: _Trained,
) -> tuple[int, int]:
    """Solve and write one partition; return the number of known rows and the file's CRC-32."""
    model, dataset, out = paths
    manifest = model_manifest.read_manifest(model)
    stored = read_block(dataset, side, number, partition)
    # `own` holds the rows of this block alone, so the block's rows start at 0.
    block = replace(stored, rows=range(len(stored.rows)))
    ids = ids_file.read(partition.rows, ["id", "count"])
    rows = trained.own_ids.get_indexer(pd.Index(ids.column("id").to_pandas()))
    own = Factors(trained.own.bias[rows], trained.own.factors[rows])
    means = trained.prior_means[rows]
    solved = fold_in_method(manifest, trained.priors).solve_part(
        HalfEpoch(side, manifest.settings.epochs),
        block,
        SolvedSide(own, NO_SUMS, trained.mean_bias),
        trained.fixed,
        RowPrior.of_means(means) if means.any() else None,
    )
    bias = np.where(solved.rated, solved.solution.bias, own.bias.dtype.type(trained.mean_bias))
    checksum = model_files.write_part(
        out, side, number, ids, Factors(bias, solved.solution.factors)
    )
    return int((rows >= 0).sum()), checksum
