"""The sizes and the memory that a kernel works with."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from dask_als.core.aligned import aligned_zeros
from dask_als.kernels import cholesky, parts, simd
from dask_als.kernels.compilation import writable
from dask_als.kernels.gram import size_of

# The largest systems solved in batches: a batch of larger ones would not fit the cache.
BATCHED_RANK = 128

# The smallest rank at which the dual form pays.
DUAL_RANK = 24

# Limit of the buffer of gathered rows: the first-level cache of many processors is no larger.
_GATHERED_BYTES = 32 * 1024


class Sizes(NamedTuple):
    """Sizes that follow from the rank and the dtype.

    Queue q holds dual systems of (q + 1) * width columns; the last queue holds the primal ones.
    """

    rank: int
    columns: int  # of a primal system: the rank rounded up to whole tiles
    chunk: int  # maximum number of rows gathered at a time in the primal form
    dual_limit: int  # maximum number of ratings of a row in the dual form
    width: int  # numbers in a row of a tile
    queues: int
    primal_lanes: int  # primal systems in a batch; 1: single solves

    @classmethod
    def of(cls, rank, dtype):
        """Return the sizes for a rank and a dtype."""
        width = cholesky.tile_width(dtype)
        dual_limit = min(rank // 2, BATCHED_RANK) if rank >= DUAL_RANK else 0
        return cls(
            rank=rank,
            columns=round_up(rank, width),
            chunk=max(16, min(128, _GATHERED_BYTES // np.dtype(dtype).itemsize // (rank + 16))),
            dual_limit=dual_limit,
            width=width,
            queues=round_up(dual_limit, width) // width + 1,
            primal_lanes=simd.lanes_of(dtype) if rank <= BATCHED_RANK else 1,
        )

    def primal_only(self):
        """Return the sizes for a kernel that solves every row in the primal form."""
        return self._replace(dual_limit=0, queues=1)

    def buffers(self, dtype):
        """Allocate the memory of one call."""
        return Buffers(*(aligned_zeros((length,), dtype) for length in self.lengths(dtype)))

    def empty_queues(self, dtype):
        """Return the queues of one call, a row each.

        A row has the queue's columns, its capacity, the numbers of one of its matrices, where they
        start in the buffer, how many rows wait, and these rows.
        """
        return _empty_queues(self, dtype).copy()

    def workspace(self, dtype):
        """Return the last arguments of a kernel: sizes, buffers and queues."""
        return self, self.buffers(dtype), self.empty_queues(dtype)

    def buffer_bytes(self, dtype):
        """Return the bytes that `buffers` allocates."""
        return sum(self.lengths(dtype)) * np.dtype(dtype).itemsize

    def lengths(self, dtype):
        """Return the lengths of the buffers of one call."""
        lane_count = simd.lanes_of(dtype)
        dual = [(queue + 1) * self.width for queue in range(self.queues - 1)]
        batched = dual + [self.columns] * (self.primal_lanes > 1)
        batched_max, dual_max = max(batched, default=0), max(dual, default=0)

        matrices = lane_count * sum(size_of(columns, lane_count) for columns in dual)
        matrices += self.primal_lanes * size_of(self.columns, lane_count)
        rows = max(self.chunk, dual_max)
        return Buffers(
            gathered=rows * self.columns,
            weights=rows,
            roots=rows,
            transposed=round_up(self.rank, lane_count) * dual_max,
            matrices=matrices,
            panels=batched_max**2 * lane_count,
            packed=batched_max * lane_count,
            solutions=max(self.columns, batched_max * lane_count),
            scratch=16 * 17,
        )


# The numbers of a queue; the rows that wait in it follow from WAITING on.
COLUMNS, CAPACITY, LENGTH, START, FILLED, WAITING = range(6)


@cache
def _empty_queues(sizes, dtype):
    lane_count = simd.lanes_of(dtype)
    queues = np.zeros((sizes.queues, WAITING + lane_count), np.int64)
    queues[:, COLUMNS] = np.arange(1, sizes.queues + 1) * sizes.width
    queues[:, CAPACITY] = lane_count
    queues[-1, COLUMNS], queues[-1, CAPACITY] = sizes.columns, sizes.primal_lanes
    queues[:, LENGTH] = size_of(queues[:, COLUMNS], lane_count)
    taken = queues[:, CAPACITY] * queues[:, LENGTH]
    queues[:, START] = np.cumsum(taken) - taken
    return queues


class Buffers(NamedTuple):
    """The memory of one call: arrays in Python, pointers inside the kernel; or their lengths."""

    gathered: Any  # rows of the fixed side
    weights: Any  # of the gathered rows
    roots: Any  # of the weights of their ratings
    transposed: Any  # the gathered rows of a dual system
    matrices: Any  # systems that wait in the queues
    panels: Any  # a batch of packed matrices
    packed: Any  # a batch of packed right-hand sides
    solutions: Any
    scratch: Any


@parts.part
def round_up(number, multiple):
    """Round an integer up to a multiple of another."""
    return -(-number // multiple) * multiple


def sizes_type():
    """Return numba's type of `Sizes`."""
    return types.NamedUniTuple(types.int64, len(Sizes._fields), Sizes)


def workspace_types(number):
    """Return numba's types of `Sizes.workspace`; buffers are arrays."""
    buffers = types.NamedUniTuple(writable(number), len(Buffers._fields), Buffers)
    return sizes_type(), buffers, writable(types.int64, 2)
