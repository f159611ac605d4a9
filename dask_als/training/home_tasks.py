"""What workers run to exchange solved rows: each home gets the rows that its blocks use.

A solved partition stays where it was solved. Each home offers its partitions to the others, one
barrier joins what is known of the whole side, and then each home asks the others for the rows that
it needs: a mask goes out, biases and factors come back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from dask_als.core.aligned import recycled_empty
from dask_als.core.blocks import Block, Factors
from dask_als.core.executor import Peers
from dask_als.solvers.base import (
    HalfEpoch,
    HomeMethod,
    HomeSums,
    Method,
    SolvedPart,
    SolvedSide,
    add_predictions,
    with_mean_bias,
)
from dask_als.solvers.threads import Threaded

_BYTES_A_MESSAGE = 8 << 20


@dataclass(frozen=True)
class Needed:
    """The rows of the fixed side that the blocks of a home use.

    Attributes
    ----------
    rows : ndarray of int32
        Ascending; a row's position is its number in the home's blocks.
    n_rows : int
        All rows of the side.
    """

    rows: np.ndarray
    n_rows: int

    def __sizeof__(self) -> int:
        return self.rows.nbytes

    def within(self, rows: range) -> slice:
        """Return the positions of those that are in a range of rows."""
        return slice(*np.searchsorted(self.rows, [rows.start, rows.stop]).tolist())

    def mask(self, rows: range) -> np.ndarray:
        """Return a bit for each row of a range: whether it is needed."""
        mask = np.zeros(len(rows), bool)
        mask[self.rows[self.within(rows)] - rows.start] = True
        return np.packbits(mask)


@dataclass(frozen=True)
class Offer:
    """The solved rows of a home, which others may ask for.

    Attributes
    ----------
    rows : range
    sums : HomeSums or None
        None once they are joined.
    offered : object
        See `Peers.offer`.
    no_rows : Factors
        Of the dtype and rank of the rows.
    """

    rows: range
    sums: HomeSums | None
    offered: Any
    no_rows: Factors


@dataclass(frozen=True)
class OfferedSide:
    """A solved side whose rows are on their homes.

    Attributes
    ----------
    side : SolvedSide
        Without rows.
    other : SolvedSide or None
        The other side before the next half-epoch, without rows.
    offers : list of Offer
        Of all homes in order.
    """

    side: SolvedSide
    other: SolvedSide | None
    offers: list[Offer]


@dataclass(frozen=True)
class Held:
    """What a home holds to solve its partitions of the next side.

    Attributes
    ----------
    fixed : SolvedSide
        With the rows that the home needs.
    own : SolvedSide or None
        The side that is solved next, without rows.
    """

    fixed: SolvedSide
    own: SolvedSide | None

    def __sizeof__(self) -> int:
        return self.fixed.__sizeof__()


# --- once: what a home needs ---


def needed_rows(blocks: list[Block], n_rows: int) -> Needed:
    """Return the rows of the fixed side that blocks use, of all its rows."""
    used = np.zeros(n_rows, bool)
    for block in blocks:
        used[block.indices] = True
    return Needed(np.flatnonzero(used).astype(np.int32), n_rows)


def renumbered(block: Block, needed: Needed) -> Block:
    """Return a block whose indices are positions among the needed rows; they still ascend."""
    positions = np.empty(needed.n_rows, np.int32)
    positions[needed.rows] = np.arange(len(needed.rows), dtype=np.int32)
    return replace(block, indices=positions[block.indices])


# --- every half-epoch ---


def solve_part(
    method: Threaded, step: HalfEpoch, block: Block, own: SolvedPart, held: Held
) -> SolvedPart:
    """Solve the rows of a partition on its home."""
    assert held.own is not None, "both sides are started before one is solved"
    return method.solve_part(step, block, side_at(block.rows, own, held.own), held.fixed)


def offer(
    method: HomeMethod,
    peers: Peers,
    rows: list[range],
    parts: list[SolvedPart],
    references: list[Any],
) -> Offer:
    """Offer the partitions of a home."""
    return Offer(
        range(rows[0].start, rows[-1].stop),
        method.sums_of_home(rows, parts),
        peers.offer(references),
        _copy(parts[0].solution[:0]),
    )


def join_offers(
    method: HomeMethod, step: HalfEpoch, offers: list[Offer], other: OfferedSide | None
) -> OfferedSide:
    """Join what is known of a side once all homes have solved their rows."""
    side = method.join_homes(
        step, [offer.sums for offer in offers if offer.sums], offers[0].no_rows
    )
    offers = [replace(offer, sums=None) for offer in offers]
    return OfferedSide(side, None if other is None else other.side, offers)


def pull(peers: Peers, offered: OfferedSide, needed: Needed) -> Held:
    """Get the rows that a home needs."""
    empty = offered.side.solution
    bias = np.empty(len(needed.rows), empty.bias.dtype)
    factors = recycled_empty((len(needed.rows), empty.factors.shape[1]), empty.factors.dtype)
    most = max(1, _BYTES_A_MESSAGE // (factors.itemsize * (1 + factors.shape[1])))
    requests, places = [], []
    for its in offered.offers:
        of_home = needed.within(its.rows)
        mask = needed.mask(its.rows)
        edges = [*range(of_home.start, of_home.stop, most), of_home.stop]
        for start, stop in pairwise(edges):
            some = slice(start - of_home.start, stop - of_home.start)
            requests.append((its.offered, (mask, some, offered.side.mean_bias)))
            places.append(slice(start, stop))

    def receive(number: int, answer: list[np.ndarray]) -> None:
        bias[places[number]], factors[places[number]] = answer

    peers.ask(requests, rows_of_parts, receive)
    return Held(replace(offered.side, solution=Factors(bias, factors)), offered.other)


def rows_of_parts(
    parts: list[SolvedPart], mask: np.ndarray, some: slice, mean_bias: float
) -> list[np.ndarray]:
    """Return biases and factors of some of the rows that a mask of consecutive parts selects."""
    ends = np.cumsum([len(part.rated) for part in parts])
    selected = np.flatnonzero(np.unpackbits(mask, count=int(ends[-1])))[some]
    bias = np.empty(len(selected), parts[0].solution.bias.dtype)
    factors = np.empty((len(selected), parts[0].solution.factors.shape[1]), bias.dtype)
    edges = [0, *np.searchsorted(selected, ends).tolist()]
    for part, end, (start, stop) in zip(parts, ends, pairwise(edges), strict=True):
        its = selected[start:stop] - (end - len(part.rated))
        np.take(part.solution.factors, its, axis=0, out=factors[start:stop])
        bias[start:stop] = with_mean_bias(part, mean_bias).bias[its]
    return [bias, factors]


def held_out_error(
    method: Method,
    block: Block,
    items: Held | SolvedSide,
    *own: SolvedPart | SolvedSide | OfferedSide,
) -> int:
    """Return the exact sum of squared errors over a block of held-out ratings by user.

    Parameters
    ----------
    items : Held or SolvedSide
        With the rows that the block uses.
    *own
        The other arguments of `side_at`, of users.
    """
    return method.held_out_error(block, side_at(block.rows, *own), fixed_side(items))


def predictions_added(
    block: Block,
    mean: float,
    before: np.ndarray | None,
    items: Held | SolvedSide,
    *own: SolvedPart | SolvedSide | OfferedSide,
) -> np.ndarray:
    """Add the predictions of held-out ratings to their sum over earlier epochs, if there is one."""
    users = side_at(block.rows, *own)
    return add_predictions(block, users, fixed_side(items), mean, before)


def fixed_side(held: Held | SolvedSide) -> SolvedSide:
    """Return the fixed side as a home has it."""
    return held.fixed if isinstance(held, Held) else held


def side_at(rows: range, *own: SolvedPart | SolvedSide | OfferedSide) -> SolvedSide:
    """Return a side that has the rows of a partition.

    Parameters
    ----------
    rows : range
        Of the partition.
    *own
        A `SolvedSide` that has all rows; or the `SolvedPart` of the partition, and its side
        without rows.
    """
    solved, *side = own
    if not isinstance(solved, SolvedPart):
        return side_without_rows(solved)
    whole = side_without_rows(*side)
    return replace(whole, solution=with_mean_bias(solved, whole.mean_bias), start=rows.start)


def side_without_rows(side: Any) -> SolvedSide:
    """Return what is known of a whole side, from an `OfferedSide` or `SolvedSide`."""
    found: SolvedSide = side.side if isinstance(side, OfferedSide) else side
    return found


def _copy(factors: Factors) -> Factors:
    # A view would keep all rows in memory.
    return Factors(factors.bias.copy(), factors.factors.copy())
