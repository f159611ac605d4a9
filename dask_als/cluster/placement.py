"""Which worker is home to which partition.

There a partition's ratings lie, its rows are solved, and a copy of both sides is put together: what
the homes solved goes once over each of their links, and nothing has to be fetched twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Placement:
    """The homes of partitions; consecutive ones share a home.

    Attributes
    ----------
    workers : tuple of str or None
        The name of each home; None is any worker.
    """

    workers: tuple[str | None, ...]

    @classmethod
    def on(cls, workers: Iterable[str], n_partitions: int) -> Placement:
        """Make workers homes, no more of them than there are partitions; if all are lost, any."""
        return cls(tuple(sorted(workers)[:n_partitions]) or (None,))

    @property
    def n_homes(self) -> int:
        """How many homes there are."""
        return len(self.workers)

    def home(self, number: int, n_partitions: int) -> int:
        """Return the home of one of a side's partitions."""
        return number * self.n_homes // n_partitions

    def by_home(self, parts: list[T]) -> list[tuple[int, list[T]]]:
        """Return the homes that have parts of a side, each with its parts in order."""
        numbered = enumerate(parts)
        groups = groupby(numbered, key=lambda pair: self.home(pair[0], len(parts)))
        return [(home, [part for _, part in group]) for home, group in groups]
