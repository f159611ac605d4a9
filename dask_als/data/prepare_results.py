"""What the tasks of `prepare` return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

BlockNumber = tuple[int, int]
"""Which block of the source: the number of its chunk, and its number within the chunk."""


@dataclass(frozen=True)
class BlockCounts:
    """How many rows a block of the source has, and how many of them are not usable."""

    n_rows: int
    n_rejected: int

    @property
    def n_usable(self) -> int:
        """Rows that are ratings."""
        return self.n_rows - self.n_rejected


@dataclass(frozen=True)
class ChunkSummary:
    """What the plan needs to know of a chunk that was read.

    Attributes
    ----------
    blocks : tuple of BlockCounts
    id_types : dict of str to frozenset of DataType
        For users and items, the types that ids have in the chunk's blocks.
    """

    blocks: tuple[BlockCounts, ...]
    id_types: dict[str, frozenset[pa.DataType]]

    @property
    def n_rows(self) -> int:
        """Rows read."""
        return sum(block.n_rows for block in self.blocks)

    @property
    def n_rejected(self) -> int:
        """Rows that are not usable."""
        return sum(block.n_rejected for block in self.blocks)


@dataclass(frozen=True)
class ReadChunk:
    """What a chunk of the source came to; its rows lie in the work directory.

    Attributes
    ----------
    summary : ChunkSummary
    ids : dict of str to pyarrow.Table
        For users and items: ``id``, ascending, and ``count``. Empty if the ids are of several
        types: then the chunk is to be read again.
    """

    summary: ChunkSummary
    ids: dict[str, pa.Table]


@dataclass(frozen=True)
class UserPart:
    """What became of the ratings of one partition of users.

    Attributes
    ----------
    n_train, n_test, n_merged : int
        Training and held-out ratings, and ratings that gave way to another of the same pair.
    duplicate : (int, int) or None
        User and item index of a pair that was there several times.
    overflow : (int, int) or None
        The same of one whose ratings add up to more than float32 holds.
    """

    n_train: int
    n_test: int
    n_merged: int
    duplicate: tuple[int, int] | None
    overflow: tuple[int, int] | None


@dataclass(frozen=True)
class CheckedPart:
    """A written partition, read again.

    Attributes
    ----------
    counts : ndarray of int64
        Ratings of each of the partition's rows.
    n_ratings : int
    crc32 : int
        Of the file.
    rating_sum : int
        Exact sum.
    checksum : int
        Sum of hashes of (user, item, rating), modulo 2**64: the same for both orientations.
    rating_min, rating_max : float
    """

    counts: np.ndarray
    n_ratings: int
    crc32: int
    rating_sum: int
    checksum: int
    rating_min: float
    rating_max: float


@dataclass(frozen=True)
class CheckedSide:
    """All written partitions of one side, and the digest and the file of its ids."""

    digest: str
    crc32: int
    part_ratings: tuple[int, ...]
    part_crc32: tuple[int, ...]
    rating_sum: int
    checksum: int
    rating_min: float
    rating_max: float
