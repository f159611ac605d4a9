"""The plan of `prepare`: the stages that it submits one after another.

Stages: read (a task a chunk), ids, filter (if asked for), shuffle (a task a block), partitions of
users, partitions of items, check (a task a partition, from the written files), manifest.
"""

from __future__ import annotations

from typing import Any

from dask_als.core import storage
from dask_als.core.executor import Executor
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.core.superaccumulator import as_float
from dask_als.data import prepare_tasks as tasks
from dask_als.data import user_partitions
from dask_als.data.attribute_tasks import AttributeTasks
from dask_als.data.dataset import (
    Dataset,
    Growth,
    rejected_path,
)
from dask_als.data.least_ratings import Bounds, Filtered, ToFilter, leave_out
from dask_als.data.partitioning import default_partitions
from dask_als.data.prepare_check import check_written
from dask_als.data.prepare_inputs import (
    KnownRows,
    Ratings,
    agreed_id_types,
    check_split,
    check_times_of_appended,
)
from dask_als.data.prepare_manifest import (
    check_nothing_lost,
    fingerprint,
    side_table,
    weights_of,
)
from dask_als.data.prepare_reading import ReadSource, check_types_of_appended, read_source
from dask_als.data.prepare_results import (
    ChunkSummary,
    PartBlocks,
    PartRules,
    UserPart,
    largest_time,
    with_decay,
)
from dask_als.data.progress import Progress, completed
from dask_als.data.split import first_test_time
from dask_als.errors import InputError
from dask_als.settings.data import PrepareSettings


class Plan:
    """Submits the stages one after another; holds what they share."""

    def __init__(
        self,
        executor: Executor,
        progress: Progress,
        settings: PrepareSettings,
        ratings: Ratings,
        known: KnownRows | None,
        staging: str,
    ) -> None:
        self.executor = executor
        self.progress = progress
        self.settings = settings
        self.ratings = ratings
        self.known = known
        self.staging = staging
        self.work = storage.join(staging, "work")
        # Ratings in a model's folder are not appended to.
        self.keeps_rows = known is None

    def run(self, path: str) -> Dataset:
        """Run all stages and write the manifest."""
        ratings = self.ratings
        read = read_source(
            self.executor,
            ratings,
            self.known,
            self.work,
            self.progress,
            needs_time=self.settings.rejects_without_time,
        )
        read.check_usable(ratings.new_numbers, ratings.name)
        if ratings.test_name is not None:
            read.check_usable(ratings.test_numbers[ratings.n_stored[1] :], ratings.test_name)
        self.check_id_types(read)
        blocks = PartBlocks(read.blocks(ratings.train_numbers), read.blocks(ratings.test_numbers))
        everything = range(len(read.summaries))
        n_usable = read.n_usable(everything)
        if self.settings.filters:
            filtered = self.filter(read, blocks)
            ids = filtered.ids
        else:
            filtered = None
            ids = {side: self.all_ids(read, side, everything) for side in SIDES}
        attributes = AttributeTasks(self.executor, ratings, self.staging)
        ids = attributes.with_ids(ids)
        summaries = read.summaries
        del read
        ranges = self.plan_ranges(ids, n_usable - (filtered.n_rows if filtered else 0))
        n_left_out = self.shuffle(blocks, ids, ranges, filtered)
        if n_left_out == n_usable:
            assert self.known is not None, "all other rows are known"
            raise InputError(
                f"none of the {n_left_out:,} ratings in {self.ratings.name} is of a known "
                f"{self.known.side.singular}"
            )
        rules = PartRules(self.settings, self.first_test_time(summaries), self.keeps_rows)
        hashes = self.hashes(ids)
        if self.settings.half_life is not None:
            newest = self.newest_training_time(blocks, hashes, len(ranges[USERS]), rules)
            rules = with_decay(rules, newest, summaries)
        user_parts = self.write_users(blocks, hashes, ranges, rules)
        self.refuse_duplicates(user_parts, ids)
        n_train = sum(part.n_train for part in user_parts)
        n_test = sum(part.n_test for part in user_parts)
        check_split(self.settings, n_train, n_test)
        item_crc32 = self.write_items(ranges)
        users, items, tests, n_cold = check_written(self, ids, ranges, user_parts, item_crc32)
        rejected_crc32 = self.write_rejected(summaries)
        described = attributes.write(users.crc32, items.crc32)
        storage.remove(self.work)

        before = ratings.before
        n_rejected = sum(chunk.n_rejected for chunk in summaries)
        n_rejected += 0 if before is None else int(before.source["rejected"])
        counts = {
            "rows": n_usable + n_rejected,
            "train": n_train,
            "test": n_test,
            "rejected": n_rejected,
            "duplicates": sum(part.n_merged for part in user_parts),
            "unknown": n_left_out if self.known is not None else 0,
        }
        if filtered is not None:
            counts["filtered"] = n_left_out
        check_nothing_lost(counts, users, items, tests)
        n_untimed = sum(chunk.n_untimed for chunk in summaries)
        has_titles = ratings.titles is not None or (before is not None and before.has_titles)
        dataset = Dataset(
            path=storage.absolute(path),
            users=side_table(users, ranges[USERS], ranges[ITEMS][-1].stop, tests),
            items=side_table(items, ranges[ITEMS], ranges[USERS][-1].stop, []),
            n_ratings=n_train,
            n_test=n_test,
            rating_mean=as_float(users.rating_sum)
            / (n_train if users.weight_sum is None else as_float(users.weight_sum)),
            rating_min=users.rating_min,
            rating_max=users.rating_max,
            fingerprint=fingerprint(users, items, tests, described),
            split=self.settings.split_json(),
            source={
                **ratings.described,
                "kept": self.settings.duplicates,
                **({"untimed": n_untimed} if n_untimed else {}),
                **counts,
                **({} if n_cold is None else {"cold": n_cold}),
                **({} if filtered is None else filtered.described()),
            },
            has_titles=has_titles or (self.known is not None and self.known.has_titles),
            rejected_crc32=rejected_crc32,
            growth=self.growth(summaries, user_parts, filtered),
            user_attributes=described[0],
            item_attributes=described[1],
            weights=weights_of(users, tests, rules.decay),
        )
        dataset.write_manifest(self.staging)
        return dataset

    def growth(
        self, summaries: list[ChunkSummary], parts: list[UserPart], filtered: Filtered | None
    ) -> Growth | None:
        """Return what the manifest records for appending."""
        if not self.keeps_rows:
            return None
        before, appended = self.ratings.before, self.ratings.appended
        earlier = before.growth.appended if before is not None and before.growth else ()
        return Growth(
            settings=self.settings,
            times=tuple(part.times for part in parts if part.times is not None),
            repeated=tuple(part.repeated for part in parts),
            left_out=() if filtered is None else filtered.left_out,
            largest_time=largest_time(summaries),
            appended=(*earlier, *([] if appended is None else [appended])),
        )

    def first_test_time(self, summaries: list[ChunkSummary]) -> float | None:
        """Return the first time that is held out, for the split by time."""
        largest = largest_time(summaries)
        if self.settings.test_from is None:
            return None
        assert largest is not None, "the split by time needs a time column"
        return first_test_time(self.settings.test_from, largest)

    def all_ids(self, read: ReadSource, side: Side, numbers: range) -> Any:
        """Return a handle of all ids of a side in some chunks."""
        if self.known is not None and side is self.known.side:
            return self.known.rows
        return read.ids(side, numbers)

    def filter(self, read: ReadSource, blocks: PartBlocks) -> Filtered:
        """Leave out users and items with too few training ratings."""
        train, test = self.ratings.train_numbers, self.ratings.test_numbers
        ids = {side: read.ids(side, train) for side in SIDES}
        ranges = self.plan_ranges(ids, read.n_usable(train))
        work = storage.join(self.work, "filter")
        storage.make_directory(work)
        self.shuffle(PartBlocks(blocks.train, ()), ids, ranges, None, to=work)
        return leave_out(
            self.executor,
            ToFilter(
                Bounds(self.settings.least_user_ratings, self.settings.least_item_ratings),
                work,
                blocks.train,
                tuple(ranges[USERS]),
                self.staging,
            ),
            ids,
            {side: read.ids(side, test) for side in SIDES} if test else None,
            lambda done, total: self.progress("filter", done, total),
        )

    def check_id_types(self, read: ReadSource) -> None:
        """Raise InputError if ids of the source and ids that are known differ in type."""
        if self.ratings.before is not None:
            check_types_of_appended(read, self.ratings)
            check_times_of_appended(read.summaries, self.ratings)
        if self.known is None:
            return
        found = agreed_id_types(read.summaries, self.known)[self.known.side]
        if found != self.known.id_type:
            raise InputError(
                f"ids of {self.known.side.name} are {found} in these ratings, "
                f"{self.known.id_type} where they are known"
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
        blocks: PartBlocks,
        ids: dict[Side, Any],
        ranges: dict[Side, list[range]],
        filtered: Filtered | None,
        *,
        to: str | None = None,
    ) -> int:
        """Sort all rows by partitions of users; return how many are left out for their ids.

        Parameters
        ----------
        filtered : Filtered or None
            The ids that training rows may have.
        to : str, optional
            The directory to write to.
        """
        handles = [
            self.executor.submit(
                tasks.shuffle_block,
                block,
                ids,
                ranges[USERS],
                self.work,
                self.work if to is None else to,
                filtered.core if filtered is not None and block in blocks.train else None,
                key=f"shuffle-users-{'-'.join(map(str, block))}",
            )
            for block in (*blocks.train, *blocks.test)
        ]
        completed(self.executor, self.progress, "shuffle", handles)
        return sum(self.executor.gather(handles))

    def hashes(self, ids: dict[Side, Any]) -> dict[Side, Any]:
        """Return the handles of the hashes of the ids, for the random split."""
        if not (self.settings.test_fraction and self.settings.split == "random"):
            return {}
        return {
            side: self.executor.submit(tasks.id_hashes, ids[side], key=f"hash-{side.name}-0")
            for side in SIDES
        }

    def newest_training_time(
        self, blocks: PartBlocks, hashes: dict[Side, Any], n_parts: int, rules: PartRules
    ) -> float:
        """Return the time of the newest rating that the split leaves for training."""
        handles = [
            self.executor.submit(
                user_partitions.newest_training_time,
                number,
                blocks,
                hashes,
                rules,
                self.work,
                key=f"newest-time-{number}",
            )
            for number in range(n_parts)
        ]
        return max(self.executor.gather(handles))

    def write_users(
        self,
        blocks: PartBlocks,
        hashes: dict[Side, Any],
        ranges: dict[Side, list[range]],
        rules: PartRules,
    ) -> list[UserPart]:
        """Write the training and held-out ratings of the partitions of users."""
        handles = [
            self.executor.submit(
                user_partitions.write_user_part,
                number,
                blocks,
                hashes,
                ranges[ITEMS],
                rules,
                self.staging,
                self.work,
                key=f"write-users-{number}",
            )
            for number in range(len(ranges[USERS]))
        ]
        completed(self.executor, self.progress, "by user", handles)
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

    def write_items(self, ranges: dict[Side, list[range]]) -> list[int]:
        """Write the partitions of items; return their CRC-32."""
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
        completed(self.executor, self.progress, "by item", handles)
        crc32: list[int] = self.executor.gather(handles)
        return crc32

    def write_rejected(self, summaries: list[ChunkSummary]) -> int | None:
        """Write the rejected rows, if any, numbered as in their files.

        Returns
        -------
        int or None
            The file's CRC-32.
        """
        files, rows_before, path = [], 0, None
        before = self.ratings.before
        if before is not None and before.rejected_crc32 is not None:
            files.append((rejected_path(before.path), 0))
        chunks = self.ratings.chunks
        for number, (chunk, summary) in enumerate(zip(chunks, summaries, strict=True)):
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
