"""The first stage of `prepare`: all chunks of a source are read, with ids of one type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dask_als.core import table_files
from dask_als.core.executor import Executor, reduce_by_tree
from dask_als.core.side import SIDES, Side
from dask_als.data import prepare_tasks as tasks
from dask_als.data.prepare_inputs import (
    KnownRows,
    Ratings,
    agreed_id_types,
    has_types,
    ranges_to_reread,
)
from dask_als.data.prepare_results import BlockNumber, ChunkSummary
from dask_als.data.progress import Progress, completed
from dask_als.errors import InputError


@dataclass(frozen=True)
class ReadSource:
    """A source that was read; its rows are in the work directory.

    Attributes
    ----------
    executor : Executor
    work : str
    summaries : list of ChunkSummary
        Of all chunks, in their order.
    chunks : list of handle of ReadChunk
    """

    executor: Executor
    work: str
    summaries: list[ChunkSummary]
    chunks: list[Any]

    def n_usable(self, numbers: range) -> int:
        """Return how many usable rows some chunks have."""
        chunks = [self.summaries[number] for number in numbers]
        return sum(chunk.n_rows - chunk.n_rejected for chunk in chunks)

    def blocks(self, numbers: range) -> tuple[BlockNumber, ...]:
        """Return the blocks with usable rows of some chunks, in the order of the source."""
        return tuple(
            (number, block)
            for number in numbers
            for block, counts in enumerate(self.summaries[number].blocks)
            if counts.n_usable
        )

    def ids(self, side: Side, numbers: range) -> Any:
        """Return the handle of all ids of a side in some chunks."""
        tables = [
            self.executor.submit(
                tasks.chunk_ids, self.chunks[number], side, key=f"ids-{side.name}-{number}"
            )
            for number in numbers
            if self.summaries[number].id_types[side]
        ]
        return reduce_by_tree(
            self.executor, tasks.merged_ids, tables, name=f"merge-ids-{side.name}"
        )

    def text_id(self, side: Side, numbers: range) -> str | None:
        """Return an id of a side in some chunks that is not written as a whole number, if any."""
        handles = [
            self.executor.submit(
                tasks.first_text_id, self.chunks[number], side, key=f"text-id-{side.name}-{number}"
            )
            for number in numbers
        ]
        return next((its for its in self.executor.gather(handles) if its is not None), None)

    def check_usable(self, numbers: range, source: str) -> None:
        """Raise InputError if no row of some chunks is usable, with the reason."""
        if self.n_usable(numbers):
            return
        n_rows = sum(self.summaries[number].n_rows for number in numbers)
        why = "it has no rows"
        for number in numbers:
            for block, counts in enumerate(self.summaries[number].blocks):
                if counts.n_rejected:
                    path = tasks.rejected_path(self.work, (number, block))
                    reason = table_files.read_parquet(path, ["reason"])["reason"][0].as_py()
                    why = f"all {n_rows:,} rows were rejected, the first because {reason}"
                    raise InputError(f"{source} has no usable rating; {why}")
        raise InputError(f"{source} has no usable rating; {why}")


def check_types_of_appended(read: ReadSource, ratings: Ratings) -> None:
    """Check that appended ratings leave the ids of a dataset as they are.

    Raises
    ------
    InputError
        If ids that were read as whole numbers would become text: they may have been written in
        another way in their source.
    """
    before = ratings.before
    assert before is not None, "ratings are appended"
    for side, kind in agreed_id_types(read.summaries, None).items():
        present = before.rows_file(side).read(range(1), ["id"]).schema.field("id").type
        if not pa.types.is_integer(present) or pa.types.is_integer(kind):
            continue
        example = read.text_id(side, ratings.new_numbers)
        which = "" if example is None else f", for instance {example!r}"
        raise InputError(
            f"{side.singular} ids are whole numbers in {before.path}, but not all of them are in "
            f"{ratings.name}{which}; prepare all ratings anew in one go"
        )


def read_source(
    executor: Executor,
    ratings: Ratings,
    known: KnownRows | None,
    work: str,
    progress: Progress,
    *,
    needs_time: bool,
) -> ReadSource:
    """Read all chunks; read those again whose start or the type of whose ids was another.

    Parameters
    ----------
    needs_time : bool
        Whether a row without a time is rejected.
    """
    chunks: dict[int, Any] = {}
    summaries: dict[int, ChunkSummary] = {}
    id_types: dict[Side, pa.DataType] = {}
    if ratings.columns.id_type == "text":
        id_types = dict.fromkeys(SIDES, pa.string())
    parts = list(ratings.chunks)
    numbers = list(range(len(parts)))
    attempt = 0
    while numbers:
        for number in numbers:
            chunks[number] = executor.submit(
                tasks.read_chunk,
                parts[number],
                number,
                ratings.columns_of(number),
                id_types,
                work,
                needs_time,
                key=f"read-source-{number}-{attempt}",
            )
        handles = [
            executor.submit(tasks.summary, chunks[number], key=f"summary-{number}-{attempt}")
            for number in numbers
        ]
        completed(executor, progress, "read", handles)
        summaries.update(zip(numbers, executor.gather(handles), strict=True))
        id_types = agreed_id_types(summaries.values(), known)
        changed = ranges_to_reread(parts, summaries)
        for number, part in changed.items():
            parts[number] = part
        numbers = [n for n in summaries if n in changed or not has_types(summaries[n], id_types)]
        attempt += 1
    in_order = sorted(chunks)
    return ReadSource(
        executor,
        work,
        [summaries[number] for number in in_order],
        [chunks[number] for number in in_order],
    )
