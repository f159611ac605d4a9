"""Predictions for a file of pairs, as one CSV or Parquet file.

Workers read the pairs chunk by chunk and predict them; this process writes the results in the order
of the file, while a few chunks are on their way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from dask_als.core import storage
from dask_als.core.executor import Executor
from dask_als.core.outputs import staged_path
from dask_als.core.side import SIDES, Side
from dask_als.data.clean import clean
from dask_als.data.prepare_inputs import columns_to_read
from dask_als.data.source import Chunk, ReadRange, open_source, read_blocks
from dask_als.errors import InputError
from dask_als.model.model import ALSModel
from dask_als.model.pairs import predicted_pairs
from dask_als.settings.data import Columns

_CHUNKS_PER_THREAD = 2


@dataclass(frozen=True)
class Predicted:
    """Counts of predictions.

    Attributes
    ----------
    pairs : int
        Pairs that were predicted.
    unknown : int
        Those of them whose user or item the model does not know.
    rejected : int
        Rows without a readable id, which were left out.
    first_reason : str or None
        The reason for the first of them.
    """

    pairs: int = 0
    unknown: int = 0
    rejected: int = 0
    first_reason: str | None = None

    def __add__(self, other: Predicted) -> Predicted:
        return Predicted(
            self.pairs + other.pairs,
            self.unknown + other.unknown,
            self.rejected + other.rejected,
            self.first_reason or other.first_reason,
        )


def predict(
    model: str,
    pairs: str,
    out: str,
    executor: Executor,
    *,
    columns: Columns = Columns(),
    clip: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predicted:
    """Predict the ratings of a file of pairs.

    Parameters
    ----------
    model : str
        A model directory that all workers can read.
    pairs : str
        A source that `prepare` reads, of users and items; other columns are not read.
    out : str
        The file to write, ``.csv`` or ``.parquet``: user_id, item_id, prediction, user_known,
        item_known.
    columns : Columns, optional
        The columns of users and items, and the form of a text file.
    clip : bool, optional
        Whether predictions are clipped to the range of the training ratings.
    progress : callable, optional
        Called with the number of chunks that are done, and of all chunks.

    Raises
    ------
    InputError
        If model or pairs cannot be read, an id is of another type than the model's, or `out` exists
        or has another suffix.
    """
    open_writer = _writer_for(out)
    wanted = replace(columns, rating=None, time=None, no_time=True)
    source = open_source(pairs, wanted)
    wanted = columns_to_read(source, wanted)
    with staged_path(out) as staging, open_writer(staging) as write:
        loaded = executor.submit(_load, storage.absolute(model), key="model-for-pairs")
        waiting: deque[Any] = deque()
        total = Predicted()
        progress(0, len(source.chunks))
        chunks = enumerate(source.chunks)
        before: ReadRange | None = None

        def submitted(chunk: Chunk, key: str) -> Any:
            return executor.submit(_predict_chunk, loaded, chunk, wanted, clip, key=key)

        for done in range(1, len(source.chunks) + 1):
            while len(waiting) < _CHUNKS_PER_THREAD * executor.threads:
                number, chunk = next(chunks, (0, None))
                if chunk is None:
                    break
                waiting.append((chunk, submitted(chunk, f"predict-{number}-0")))
            chunk, handle = waiting.popleft()
            ((table, counts, span),) = executor.gather([handle])
            this = ReadRange(chunk, span)
            corrected = None if before is None else this.corrected(before)
            if corrected is not None:
                handle = submitted(corrected, f"predict-{done - 1}-1")
                ((table, counts, span),) = executor.gather([handle])
            before = ReadRange(chunk, span)
            write(table)
            total += counts
            progress(done, len(source.chunks))
        if not total.pairs:
            reason = f": {total.first_reason}" if total.first_reason else ""
            raise InputError(f"{pairs} has no pair of user and item{reason}")
    return total


def _load(model: str) -> ALSModel:
    loaded = ALSModel.load(model)
    # Every worker can read the dataset, and predictions do not need it.
    loaded.dataset = None
    return loaded


def _predict_chunk(
    model: ALSModel, chunk: Chunk, columns: Columns, clip: bool
) -> tuple[pa.Table, Predicted, tuple[int, int] | None]:
    """Return the predictions of a chunk of pairs, counts, and its span if it is a range."""
    types = {side: _id_type(model.rows(side).ids) for side in SIDES}
    as_text = frozenset(side.singular for side, kind in types.items() if kind == pa.string())
    tables, counts, span = [], Predicted(), None
    for raw in read_blocks(chunk, columns, as_text):
        cleaned = clean(raw, chunk.path, types, columns)
        rejected = cleaned.rejected.column("reason")
        table = predicted_pairs(model, cleaned.usable, clip=clip)
        known = pc.and_(table.column("user_known"), table.column("item_known"))
        counts += Predicted(
            table.num_rows,
            int(np.count_nonzero(~known.to_numpy())),
            len(rejected),
            rejected[0].as_py() if len(rejected) else None,
        )
        tables.append(table)
        span = raw.span
    schema = _schema(types)
    return (
        pa.concat_tables([table.cast(schema) for table in tables] or [schema.empty_table()]),
        counts,
        span,
    )


def _schema(types: dict[Side, pa.DataType]) -> pa.Schema:
    return pa.schema(
        [
            *((f"{side.singular}_id", types[side]) for side in SIDES),
            ("prediction", pa.float64()),
            *((f"{side.singular}_known", pa.bool_()) for side in SIDES),
        ]
    )


def _id_type(ids: Any) -> pa.DataType:
    kind = pa.array(ids[:1]).type
    return pa.string() if pa.types.is_large_string(kind) else kind


def _writer_for(out: str) -> Callable[[str], Any]:
    """Return what opens a file for tables, by its suffix."""
    if out.lower().endswith(".csv"):
        return lambda path: _opened(path, pa_csv.CSVWriter)
    if out.lower().endswith((".parquet", ".pq")):
        return lambda path: _opened(path, pq.ParquetWriter)
    raise InputError(f"{out} must end in .csv or .parquet")


@contextmanager
def _opened(path: str, kind: Callable[..., Any]) -> Iterator[Callable[[pa.Table], None]]:
    """Open a writer when the first table says what its columns are."""
    writer: Any = None

    def write(table: pa.Table) -> None:
        nonlocal writer
        if writer is None:
            writer = kind(path, table.schema)
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
