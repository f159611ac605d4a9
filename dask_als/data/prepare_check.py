"""The last stage of `prepare`: read what was written back, and write the ids with their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.data import prepare_tasks as tasks
from dask_als.data.dataset import TEST_DIRECTORY, ratings_path
from dask_als.data.prepare_results import CheckedPart, CheckedSide, UserPart
from dask_als.data.progress import completed

if TYPE_CHECKING:
    from dask_als.data.prepare_plan import Plan


def check_written(
    plan: Plan,
    ids: dict[Side, Any],
    ranges: dict[Side, list[range]],
    user_parts: list[UserPart],
    item_crc32: list[int],
) -> tuple[CheckedSide, CheckedSide, list[CheckedPart], int | None]:
    """Read the written partitions back and write the ids with their counts.

    Parameters
    ----------
    item_crc32 : list of int
        CRC-32 of the partitions of items that were written.

    Returns
    -------
    CheckedSide, CheckedSide
        Users and items.
    list of CheckedPart
        Of held-out ratings.
    int or None
        Held-out ratings of users or items without training ratings, if the split may make any
        number of them.
    """
    crc32 = {USERS: [part.crc32 for part in user_parts], ITEMS: item_crc32}
    parts = {
        side: _submit_checks(plan, side.ratings_directory, side, ranges[side], crc32[side])
        for side in SIDES
    }
    test_crc32 = [part.test_crc32 for part in user_parts if part.test_crc32 is not None]
    tests = (
        _submit_checks(plan, TEST_DIRECTORY, USERS, ranges[USERS], test_crc32)
        if plan.settings.holds_out
        else []
    )
    before = plan.ratings.before
    sides = [
        plan.executor.submit(
            tasks.finish_side,
            side,
            ids[side],
            parts[side],
            plan.ratings.titles if side is ITEMS else None,
            plan.staging,
            before if side is ITEMS and before is not None and before.has_titles else None,
            key=f"finish-{side.name}-0",
        )
        for side in SIDES
    ]
    cold = []
    if plan.settings.split in ("time", "own"):
        cold = [
            plan.executor.submit(
                tasks.cold_ratings,
                ratings_path(plan.staging, TEST_DIRECTORY, number),
                tests[number],
                parts[USERS][number],
                rows.start,
                parts[ITEMS],
                key=f"count-cold-{number}",
            )
            for number, rows in enumerate(ranges[USERS])
        ]
    completed(
        plan.executor,
        plan.progress,
        "check",
        [*parts[USERS], *parts[ITEMS], *tests, *sides, *cold],
    )
    users, items = plan.executor.gather(sides)
    n_cold = sum(plan.executor.gather(cold)) if cold else None
    return users, items, plan.executor.gather(tests), n_cold


def _submit_checks(
    plan: Plan, directory: str, side: Side, ranges: list[range], crc32: list[int]
) -> list[Any]:
    return [
        plan.executor.submit(
            tasks.check_part,
            ratings_path(plan.staging, directory, number),
            side,
            rows,
            written,
            key=f"check-{directory}-{number}",
        )
        for number, (rows, written) in enumerate(zip(ranges, crc32, strict=True))
    ]
