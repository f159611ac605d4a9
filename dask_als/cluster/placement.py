"""The home of each partition: the worker that owns it.

The home holds the partition's ratings, solves its rows and joins a replica of each side. Each
home's rows travel once to every other home, and no worker fetches anything twice.
"""

from __future__ import annotations

import math
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
        """Make at most one home per partition; without workers, any worker is home."""
        return cls(tuple(sorted(workers)[:n_partitions]) or (None,))

    @property
    def n_homes(self) -> int:
        """The number of homes."""
        return len(self.workers)

    def home(self, number: int, n_partitions: int) -> int:
        """Return the home of a partition of a side, by its number."""
        return number * self.n_homes // n_partitions

    def threads_of_a_partition(self, n_partitions: int, threads_of_a_home: int) -> int:
        """Return how many threads a partition of a side takes, so that none of its home is idle."""
        return math.ceil(threads_of_a_home / math.ceil(n_partitions / self.n_homes))

    def by_home(self, parts: list[T]) -> list[tuple[int, list[T]]]:
        """Return the homes that have parts of a side, each with its parts in order."""
        numbered = enumerate(parts)
        groups = groupby(numbered, key=lambda pair: self.home(pair[0], len(parts)))
        return [(home, [part for _, part in group]) for home, group in groups]

    def chunks(self, parts: list[T]) -> list[tuple[int, list[T]]]:
        """Return the parts of each home that a task concatenates before the homes exchange them."""
        return [(home, own) for home, own in self.by_home(parts) if len(own) > 1 < self.n_homes]

    def tasks_per_epoch(self, partitions: Iterable[int], n_test_blocks: int, *, whole: bool) -> int:
        """Return the number of tasks of an epoch.

        Parameters
        ----------
        partitions : iterable of int
            The number of partitions of each side: each is solved.
        n_test_blocks : int
            Each has a task for the errors of its held-out ratings. One more task makes the figures.
        whole : bool
            Whether each home gets all rows of a side. Then a side with several partitions has a
            task for each chunk and for each replica; otherwise, each home offers its partitions,
            one task joins the offers, and each home pulls the rows that it needs.
        """
        solves = list(partitions)
        if not whole and self.n_homes > 1:
            # As many homes offer a side as pull the other one.
            offers = [min(n, self.n_homes) for n in solves]
            return sum(solves) + 2 * sum(offers) + len(solves) + n_test_blocks + 1
        joins = [self.n_homes + len(self.chunks([None] * n)) for n in solves if n > 1]
        return sum(solves) + sum(joins) + n_test_blocks + 1
