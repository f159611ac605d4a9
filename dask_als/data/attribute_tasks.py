"""The tasks of `prepare` that read the attributes of rows, and write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dask_als.core import table_files
from dask_als.core.executor import Executor
from dask_als.core.side import SIDES, Side
from dask_als.data.attribute_source import (
    FoundAttributes,
    read_attributes,
    with_ids,
)
from dask_als.data.attributes import SideAttributes, write_attributes
from dask_als.data.dataset import rows_path
from dask_als.data.prepare_inputs import Ratings


@dataclass
class AttributeTasks:
    """Submits the tasks; a side without attributes has none.

    Attributes
    ----------
    executor : Executor
    ratings : Ratings
    staging : str
        The directory of the new dataset.
    found : dict of Side to handle of FoundAttributes
    """

    executor: Executor
    ratings: Ratings
    staging: str
    found: dict[Side, Any] = field(default_factory=dict)

    def with_ids(self, ids: dict[Side, Any]) -> dict[Side, Any]:
        """Read the attributes; return handles of all ids, with those that only have attributes."""
        submit = self.executor.submit
        for side in SIDES:
            file, stored = self.ratings.attributes.get(side), self.ratings.stored_attributes(side)
            if file is None and stored is None:
                continue
            self.found[side] = submit(
                read_attributes, file, stored, ids[side], key=f"read-attributes-{side.name}-0"
            )
        added = {
            side: submit(with_ids, ids[side], found, key=f"ids-with-attributes-{side.name}-0")
            for side, found in self.found.items()
        }
        # An error of a file is raised here, before ratings are shuffled.
        handles = enumerate(added.values())
        self.executor.gather([submit(_done, ids, key=f"attributes-read-{n}") for n, ids in handles])
        return {**ids, **added}

    def write(self, *rows_crc32: int) -> tuple[SideAttributes | None, SideAttributes | None]:
        """Write the attributes of both sides, once their ids and counts are written.

        Parameters
        ----------
        *rows_crc32 : int
            CRC-32 of the files of ids, of users and items.
        """
        handles = {
            side: self.executor.submit(
                _write,
                self.staging,
                side,
                self.found[side],
                crc32,
                key=f"write-attributes-{side.name}-0",
            )
            for side, crc32 in zip(SIDES, rows_crc32, strict=True)
            if side in self.found
        }
        written = dict(zip(handles, self.executor.gather(list(handles.values())), strict=True))
        users, items = (written.get(side) for side in SIDES)
        return users, items


def _done(ids: pa.Table) -> None:
    """Raise the error of what could not be read."""


def _write(staging: str, side: Side, found: FoundAttributes, crc32: int) -> SideAttributes:
    ids = table_files.read_parquet(rows_path(staging, side), ["id", "count"], crc32=crc32)
    return write_attributes(staging, side, found, ids, ids["count"].to_numpy())
