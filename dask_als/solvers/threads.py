"""Solve the rows of a partition on several threads of a worker, with the same bits as on one.

A dataset may have fewer partitions than a cluster has threads. The rows of a partition are then
split as if it were several partitions: how a side is partitioned never shows in its rows.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from dask_als.core.blocks import Block, split
from dask_als.solvers.base import HalfEpoch, Method, SolvedPart, SolvedSide, chunk_of

# For fewer ratings, to wake a thread takes as long as it saves.
_LEAST_RATINGS = 20_000
# A row's factorization takes rank³/3 operations, each of its ratings about rank².
_RATINGS_OF_A_FACTORIZATION = 1 / 3


@dataclass(frozen=True)
class Threaded:
    """Solves partitions by a method, each on several threads.

    Attributes
    ----------
    method : Method
    threads : int
        The most threads that one partition takes.
    """

    method: Method
    threads: int

    def solve_part(
        self,
        step: HalfEpoch,
        block: Block,
        own: SolvedSide,
        fixed: SolvedSide,
        row_prior: Any = None,
    ) -> SolvedPart:
        """Solve the rows of a partition."""
        n_blocks = worthwhile_threads(self.threads, len(block.indices))
        if n_blocks == 1:
            return self.method.solve_part(step, block, own, fixed, row_prior)
        row_cost = own.solution.factors.shape[1] * _RATINGS_OF_A_FACTORIZATION
        first, *others = split(block, n_blocks, row_cost=row_cost)
        waiting = [
            _pool().submit(self.method.solve_part, step, other, own, fixed, row_prior)
            for other in others
        ]
        solved = self.method.solve_part(step, first, own, fixed, row_prior)
        return chunk_of([solved, *(part.result() for part in waiting)])

    def solve_side(
        self,
        step: HalfEpoch,
        block: Block,
        own: SolvedSide,
        fixed: SolvedSide,
        row_prior: Any = None,
    ) -> SolvedSide:
        """Solve a side that is one partition."""
        part = self.solve_part(step, block, own, fixed, row_prior)
        return self.method.join_parts(step, [part], row_prior)


def worthwhile_threads(threads: int, n_ratings: int) -> int:
    """Return how many of some threads are worth waking for the ratings of a partition."""
    return max(1, min(threads, n_ratings // _LEAST_RATINGS))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="dask-als-rows")
