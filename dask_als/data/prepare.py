"""Prepare a dataset: submits the tasks of `dask_als.data.prepare_tasks` stage by stage.

read (one task per chunk) → ids → shuffle (one per block) → partitions of users → partitions of
items → check (one per partition, from the written files) → manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from dask_als.core import storage, table_files
from dask_als.core.executor import Executor, reduce_by_tree
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import DATASET
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.core.superaccumulator import as_float
from dask_als.data import prepare_tasks as tasks
from dask_als.data.dataset import (
    TEST_DIRECTORY,
    Dataset,
    ratings_path,
    rejected_path,
)
from dask_als.data.partitioning import default_partitions
from dask_als.data.prepare_inputs import (
    KnownRows,
    Titles,
    agreed_id_types,
    columns_to_read,
    find_titles,
    has_types,
    ranges_to_reread,
    titles_json,
)
from dask_als.data.prepare_manifest import check_nothing_lost, fingerprint, side_table
from dask_als.data.prepare_results import (
    BlockNumber,
    CheckedPart,
    CheckedSide,
    ChunkSummary,
    UserPart,
)
from dask_als.data.source import Source, open_source
from dask_als.data.source_files import is_stream, listed
from dask_als.data.standard_input import as_file
from dask_als.data.titles import TitleFile
from dask_als.errors import InputError
from dask_als.settings.data import Columns, PrepareSettings

__all__ = ["KnownRows", "Progress", "Titles", "prepare"]

# Called with the stage, the number of tasks done, and the number of tasks of the stage.
Progress = Callable[[str, int, int], None]


def prepare(
    source_path: str,
    path: str,
    executor: Executor,
    *,
    columns: Columns = Columns(),
    settings: PrepareSettings = PrepareSettings(),
    titles: Titles | None = None,
    known: KnownRows | None = None,
    overwrite: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Dataset:
    """Make a dataset from a source of ratings.

    Parameters
    ----------
    source_path : str
        Delimited text, JSON lines or Parquet: a file, a folder or a glob; text may be compressed.
        ``-`` is standard input.
    path : str
        The dataset to make.
    executor : Executor
    columns : Columns, optional
        The names of the source's columns; by default those of GroupLens.
    settings : PrepareSettings, optional
    titles : Titles, optional
        By default the titles of GroupLens' layout, if the source has it.
    known : KnownRows, optional
        The rows of one side in their order; by default the ids of the source, sorted.
    overwrite : bool, optional
        Whether to replace an existing dataset.
    progress : callable, optional

    Raises
    ------
    InputError
        If the source cannot be used, or `path` exists.
    JobError
        If the written ratings differ from those read.
    """
    with as_file(source_path, path) as readable:
        source = open_source(readable, columns)
        return _prepare(
            replace(source, path=source_path),
            path,
            executor,
            columns_to_read(source, columns),
            settings,
            titles,
            known,
            overwrite,
            progress,
        )


def _prepare(
    source: Source,
    path: str,
    executor: Executor,
    columns: Columns,
    settings: PrepareSettings,
    titles: Titles | None,
    known: KnownRows | None,
    overwrite: bool,
    progress: Progress,
) -> Dataset:
    if settings.test_fraction and settings.split == "latest" and columns.time is None:
        raise InputError(
            f"the split 'latest' needs a time column; {source.path} has {listed(source.columns)}"
        )
    title_file = None
    if known is None or known.side is not ITEMS:
        title_file = find_titles(source, columns, titles)
    read = [*source.files, *([title_file.path] if title_file else [])]
    with staged_directory(path, DATASET, overwrite=overwrite, inputs=read) as staging:
        plan = _Plan(executor, progress, settings, columns, known, staging)
        return plan.run(source, title_file, path, titles)


class _Plan:
    """Submits the stages one after another; holds what they share."""

    def __init__(
        self,
        executor: Executor,
        progress: Progress,
        settings: PrepareSettings,
        columns: Columns,
        known: KnownRows | None,
        staging: str,
    ) -> None:
        self.executor = executor
        self.progress = progress
        self.settings = settings
        self.columns = columns
        self.known = known
        self.staging = staging
        self.work = storage.join(staging, "work")

    def run(
        self, source: Source, titles: TitleFile | None, path: str, given: Titles | None
    ) -> Dataset:
        """Run all stages and write the manifest."""
        chunks, summaries = self.read(source)
        n_rows = sum(chunk.n_rows for chunk in summaries)
        n_rejected = sum(chunk.n_rejected for chunk in summaries)
        if n_rows == n_rejected:
            raise InputError(
                f"{source.path} has no usable rating; {self.why_none(n_rows, summaries)}"
            )
        self.refuse_other_types(summaries)
        ids = {side: self.all_ids(chunks, summaries, side) for side in SIDES}
        del chunks
        ranges = self.plan_ranges(ids, n_rows - n_rejected)
        n_unknown = self.shuffle(summaries, ids, ranges)
        if n_unknown == n_rows - n_rejected:
            assert self.known is not None, "all other rows are known"
            raise InputError(
                f"none of the {n_unknown:,} ratings in {source.path} is of a known "
                f"{self.known.side.singular}"
            )
        user_parts = self.write_users(summaries, ids, ranges)
        self.refuse_duplicates(user_parts, ids)
        n_train = sum(part.n_train for part in user_parts)
        if not n_train:
            raise InputError("no rating is left to train on; use a smaller --test-fraction")
        self.write_items(ranges)
        users, items, tests = self.check(ids, ranges, titles)
        rejected_crc32 = self.write_rejected(source, summaries)
        storage.remove(self.work)

        counts = {
            "rows": n_rows,
            "train": n_train,
            "test": sum(part.n_test for part in user_parts),
            "rejected": n_rejected,
            "duplicates": sum(part.n_merged for part in user_parts),
            "unknown": n_unknown,
        }
        check_nothing_lost(counts, users, items, tests)
        found: dict[str, Any] = {"found": source.findings} if source.findings else {}
        if n_untimed := sum(chunk.n_untimed for chunk in summaries):
            found["untimed"] = n_untimed
        dataset = Dataset(
            path=storage.absolute(path),
            users=side_table(users, ranges[USERS], ranges[ITEMS][-1].stop, tests),
            items=side_table(items, ranges[ITEMS], ranges[USERS][-1].stop, []),
            n_ratings=n_train,
            n_test=counts["test"],
            rating_mean=as_float(users.rating_sum) / n_train,
            rating_min=users.rating_min,
            rating_max=users.rating_max,
            fingerprint=fingerprint(users, items, tests),
            split=self.settings.split_json(),
            source={
                "path": source.path if is_stream(source.path) else storage.absolute(source.path),
                "columns": self.columns.to_json(),
                "kept": self.settings.duplicates,
                "titles": given and titles_json(given),
                **found,
                **counts,
            },
            has_titles=titles is not None or (self.known is not None and self.known.has_titles),
            rejected_crc32=rejected_crc32,
        )
        dataset.write_manifest(self.staging)
        return dataset

    def completed(self, stage: str, handles: list[Any]) -> None:
        """Wait for tasks and report progress."""
        self.progress(stage, 0, len(handles))
        for done, _ in enumerate(self.executor.as_completed(handles), start=1):
            self.progress(stage, done, len(handles))

    def read(self, source: Source) -> tuple[list[Any], list[ChunkSummary]]:
        """Read all chunks; read those again whose ids are not of the common type."""
        chunks: dict[int, Any] = {}
        summaries: dict[int, ChunkSummary] = {}
        id_types: dict[Side, pa.DataType] = {}
        if self.columns.id_type == "text":
            id_types = dict.fromkeys(SIDES, pa.string())
        parts = list(source.chunks)
        numbers = list(range(len(parts)))
        attempt = 0
        while numbers:
            for number in numbers:
                chunks[number] = self.executor.submit(
                    tasks.read_chunk,
                    parts[number],
                    number,
                    self.columns,
                    id_types,
                    self.work,
                    self.settings.rejects_without_time,
                    key=f"read-source-{number}-{attempt}",
                )
            handles = [
                self.executor.submit(
                    tasks.summary, chunks[number], key=f"summary-{number}-{attempt}"
                )
                for number in numbers
            ]
            self.completed("read", handles)
            summaries.update(zip(numbers, self.executor.gather(handles), strict=True))
            id_types = agreed_id_types(summaries.values(), self.known)
            changed = ranges_to_reread(parts, summaries)
            for number, part in changed.items():
                parts[number] = part
            numbers = [
                n for n in summaries if n in changed or not has_types(summaries[n], id_types)
            ]
            attempt += 1
        return [chunks[number] for number in sorted(chunks)], [
            summaries[number] for number in sorted(summaries)
        ]

    def why_none(self, n_rows: int, summaries: list[ChunkSummary]) -> str:
        """Return why no row is usable."""
        for number, chunk in enumerate(summaries):
            for block, counts in enumerate(chunk.blocks):
                if counts.n_rejected:
                    path = tasks.rejected_path(self.work, (number, block))
                    reason = table_files.read_parquet(path, ["reason"])["reason"][0]
                    return f"all {n_rows:,} rows were rejected, the first because {reason.as_py()}"
        return "it has no rows"

    def refuse_other_types(self, summaries: list[ChunkSummary]) -> None:
        """Raise InputError if the ids of the source and the known ids differ in type."""
        if self.known is None:
            return
        found = agreed_id_types(summaries, self.known)[self.known.side]
        if found != self.known.id_type:
            raise InputError(
                f"ids of {self.known.side.name} are {found} in these ratings, "
                f"{self.known.id_type} where they are known"
            )

    def all_ids(self, chunks: list[Any], summaries: list[ChunkSummary], side: Side) -> Any:
        """Return a handle of all ids of a side."""
        if self.known is not None and side is self.known.side:
            return self.known.rows
        tables = [
            self.executor.submit(tasks.chunk_ids, chunk, side, key=f"ids-{side.name}-{number}")
            for number, (chunk, summary) in enumerate(zip(chunks, summaries, strict=True))
            if summary.id_types[side]
        ]
        return reduce_by_tree(
            self.executor, tasks.merged_ids, tables, name=f"merge-ids-{side.name}"
        )

    def plan_ranges(self, ids: dict[Side, Any], n_ratings: int) -> dict[Side, list[range]]:
        """Cut both sides into partitions."""
        n_partitions = self.settings.partitions or default_partitions(n_ratings)
        handles = [
            self.executor.submit(
                tasks.planned_ranges, ids[side], n_partitions, key=f"ranges-{side.name}-0"
            )
            for side in SIDES
        ]
        return dict(zip(SIDES, self.executor.gather(handles), strict=True))

    def shuffle(
        self,
        summaries: list[ChunkSummary],
        ids: dict[Side, Any],
        ranges: dict[Side, list[range]],
    ) -> int:
        """Sort all rows by partitions of users; return how many have an unknown id."""
        handles = [
            self.executor.submit(
                tasks.shuffle_block,
                block,
                ids,
                ranges[USERS],
                self.work,
                key=f"shuffle-users-{'-'.join(map(str, block))}",
            )
            for block in _blocks(summaries)
        ]
        self.completed("shuffle", handles)
        return sum(self.executor.gather(handles))

    def write_users(
        self,
        summaries: list[ChunkSummary],
        ids: dict[Side, Any],
        ranges: dict[Side, list[range]],
    ) -> list[UserPart]:
        """Write the training and held-out ratings of the partitions of users."""
        hashes: dict[Side, Any] = {}
        if self.settings.test_fraction and self.settings.split == "random":
            hashes = {
                side: self.executor.submit(tasks.id_hashes, ids[side], key=f"hash-{side.name}-0")
                for side in SIDES
            }
        handles = [
            self.executor.submit(
                tasks.write_user_part,
                number,
                _blocks(summaries),
                hashes,
                ranges[ITEMS],
                self.settings,
                self.staging,
                self.work,
                key=f"write-users-{number}",
            )
            for number in range(len(ranges[USERS]))
        ]
        self.completed("by user", handles)
        parts: list[UserPart] = self.executor.gather(handles)
        return parts

    def refuse_duplicates(self, parts: list[UserPart], ids: dict[Side, Any]) -> None:
        """Raise InputError if the sum of a pair's ratings overflows, or duplicates are errors."""
        overflow = next((part.overflow for part in parts if part.overflow), None)
        if overflow is not None:
            user, item = self.ids_of(overflow, ids)
            raise InputError(
                f"the ratings of user {user!r} and item {item!r} add up to more than the "
                "largest float32, 3.4e38; scale the ratings down, or use --duplicates last or mean"
            )
        n_merged = sum(part.n_merged for part in parts)
        if not n_merged or self.settings.duplicates != "error":
            return
        user, item = self.ids_of(next(part.duplicate for part in parts if part.duplicate), ids)
        raise InputError(
            f"{n_merged:,} ratings repeat a pair of user and item, for instance "
            f"user {user!r} and item {item!r}; use --duplicates last, mean or sum"
        )

    def ids_of(self, pair: tuple[int, int], ids: dict[Side, Any]) -> tuple[object, object]:
        """Return the ids of a user index and an item index."""
        handle = self.executor.submit(
            tasks.example_pair, ids[USERS], ids[ITEMS], pair, key="example-pair-0"
        )
        (found,) = self.executor.gather([handle])
        return found

    def write_items(self, ranges: dict[Side, list[range]]) -> None:
        """Write the partitions of items."""
        handles = [
            self.executor.submit(
                tasks.write_item_part,
                number,
                len(ranges[USERS]),
                self.staging,
                self.work,
                key=f"write-items-{number}",
            )
            for number in range(len(ranges[ITEMS]))
        ]
        self.completed("by item", handles)

    def check(
        self,
        ids: dict[Side, Any],
        ranges: dict[Side, list[range]],
        titles: TitleFile | None,
    ) -> tuple[CheckedSide, CheckedSide, list[CheckedPart]]:
        """Read the written partitions back and write the ids with their counts."""
        parts = {
            side: self._submit_checks(side.ratings_directory, side, ranges[side]) for side in SIDES
        }
        tests = (
            self._submit_checks(TEST_DIRECTORY, USERS, ranges[USERS])
            if self.settings.test_fraction
            else []
        )
        sides = [
            self.executor.submit(
                tasks.finish_side,
                side,
                ids[side],
                parts[side],
                titles if side is ITEMS else None,
                self.staging,
                key=f"finish-{side.name}-0",
            )
            for side in SIDES
        ]
        self.completed("check", [*parts[USERS], *parts[ITEMS], *tests, *sides])
        users, items = self.executor.gather(sides)
        return users, items, self.executor.gather(tests)

    def _submit_checks(self, directory: str, side: Side, ranges: list[range]) -> list[Any]:
        return [
            self.executor.submit(
                tasks.check_part,
                ratings_path(self.staging, directory, number),
                side,
                rows,
                key=f"check-{directory}-{number}",
            )
            for number, rows in enumerate(ranges)
        ]

    def write_rejected(self, source: Source, summaries: list[ChunkSummary]) -> int | None:
        """Write the rejected rows, if any, numbered as in their files.

        Returns
        -------
        int or None
            The file's CRC-32.
        """
        files, rows_before, path = [], 0, None
        for number, (chunk, summary) in enumerate(zip(source.chunks, summaries, strict=True)):
            rows_before = rows_before if chunk.path == path else 0
            path = chunk.path
            files += [
                (tasks.rejected_path(self.work, (number, block)), rows_before)
                for block, counts in enumerate(summary.blocks)
                if counts.n_rejected
            ]
            rows_before += summary.n_rows
        if not files:
            return None
        handle = self.executor.submit(
            tasks.write_rejected, files, rejected_path(self.staging), key="write-rejected-0"
        )
        (crc32,) = self.executor.gather([handle])
        return int(crc32)


def _blocks(summaries: list[ChunkSummary]) -> list[BlockNumber]:
    """Return the blocks with usable rows, in the order of the source."""
    return [
        (number, block)
        for number, chunk in enumerate(summaries)
        for block, counts in enumerate(chunk.blocks)
        if counts.n_usable
    ]
