"""The exact best rows of one side for every row of the other, without a matrix of all scores.

BLAS computes scores tile by tile in the precision of the model, and each row keeps a few more than
the best k. The rounding of BLAS depends on the shape of a tile, so these are only candidates: they
are scored again in float64, in a fixed order of operations, and ranked by that. A bound on the
rounding error tells whether it could have excluded one of the best; such a row is searched again
in float64 alone. So the results have the same bits for every tiling.

A tile is skipped for a row if no score in it can reach the worst score that the row keeps
(Cauchy-Schwarz: u·v <= |u| |v|). Candidates are ordered by that bound, the most promising first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dask_als.core.blocks import Factors
from dask_als.core.jit import compiled
from dask_als.errors import InputError
from dask_als.model.blas_threads import one_blas_thread
from dask_als.model.scores import score, scores_of_one

# Rows and candidates of a tile: its scores fit into the second-level cache.
TILE_ROWS = 1024
TILE_CANDIDATES = 512
# Kept in addition to k, so that rounding seldom makes a row be searched again.
_SPARE = 8
# Scores are compared in groups of this size: most groups hold none of the best.
_GROUP = 32
_PLACE_BITS = 31


@dataclass(frozen=True)
class Candidates:
    """The rows of one side that may be among the best, laid out for the search.

    Attributes
    ----------
    rows : ndarray of int32, shape (n,)
        Row of each candidate on its side; the most promising first.
    place : ndarray of int32, shape (n_rows,)
        The inverse: the position of each row in `rows`, -1 if it is no candidate.
    weights : ndarray of the model's dtype, shape (n, rank + 1)
        Factors and, last, bias.
    tile_norm, tile_bias : ndarray of float64, shape (n_tiles,)
        The largest norm of factors, and the largest bias, of each tile.
    """

    rows: np.ndarray
    place: np.ndarray
    weights: np.ndarray
    tile_norm: np.ndarray
    tile_bias: np.ndarray


@dataclass(frozen=True)
class Seen:
    """Rows of the other side to exclude for each searching row, as compressed sparse rows.

    Attributes
    ----------
    indptr : ndarray of int64, shape (n_rows + 1,)
    indices : ndarray of int32, shape (n_seen,)
    """

    indptr: np.ndarray
    indices: np.ndarray

    def __getitem__(self, rows: slice) -> Seen:
        indptr = self.indptr[rows.start : rows.stop + 1]
        return Seen(indptr - indptr[0], self.indices[indptr[0] : indptr[-1]])


def nothing_seen(n_rows: int) -> Seen:
    """Exclude nothing."""
    return Seen(np.zeros(n_rows + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))


class Best(NamedTuple):
    """The best for each searching row, highest score first; of equal scores, the first row.

    Attributes
    ----------
    rows : ndarray of int32, shape (n_rows, k)
        Rows of the other side; -1 where there are fewer than k.
    scores : ndarray of float64, shape (n_rows, k)
        Predicted ratings; NaN where there are fewer than k.
    """

    rows: np.ndarray
    scores: np.ndarray


def candidates(
    state: Factors, *, allowed: np.ndarray | None = None, typical_norm: float = 1.0
) -> Candidates:
    """Lay out one side for the search.

    Parameters
    ----------
    state : Factors
        Of the whole side.
    allowed : ndarray of bool, optional
        Which rows may be among the best; all if it is not given.
    typical_norm : float, optional
        Norm of the searching rows' factors: the better the guess, the faster the search.
    """
    norms = np.linalg.norm(state.factors.astype(np.float64), axis=1)
    promise = state.bias + typical_norm * norms
    rows = np.argsort(-promise, kind="stable").astype(np.int32)
    if allowed is not None:
        rows = rows[allowed[rows]]
    place = np.full(len(norms), -1, dtype=np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    starts = np.arange(0, len(rows), TILE_CANDIDATES)
    return Candidates(
        rows=rows,
        place=place,
        weights=np.column_stack([state.factors[rows], state.bias[rows]]),
        tile_norm=np.maximum.reduceat(norms[rows], starts) if len(rows) else np.zeros(0),
        tile_bias=np.maximum.reduceat(state.bias[rows].astype(np.float64), starts)
        if len(rows)
        else np.zeros(0),
    )


def top_k(
    own: Factors, others: Candidates, k: int, *, seen: Seen | None = None, mean: float
) -> Best:
    """Find the k best candidates for each row.

    Parameters
    ----------
    own : Factors
        The searching rows, of the candidates' dtype.
    others : Candidates
    k : int
    seen : Seen, optional
        What to exclude.
    mean : float
        The model's global mean, which is part of the scores.

    Returns
    -------
    Best
    """
    n_rows = len(own.bias)
    seen = nothing_seen(n_rows) if seen is None else seen
    rows = np.full((n_rows, k), -1, dtype=np.int32)
    scores = np.full((n_rows, k), np.nan)
    with one_blas_thread():
        for tile in _slices(n_rows, TILE_ROWS):
            _search(own[tile], others, seen[tile], mean, Best(rows[tile], scores[tile]))
    return Best(rows, scores)


def top_k_of_few(
    own: Factors, others: Candidates, k: int, *, seen: Seen | None = None, mean: float
) -> Best:
    """Find what `top_k` finds, with the same bits, without compiled functions.

    For a few rows this takes less time than to import numba.
    """
    n_rows = len(own.bias)
    seen = nothing_seen(n_rows) if seen is None else seen
    best = Best(np.full((n_rows, k), -1, dtype=np.int32), np.full((n_rows, k), np.nan))
    factors, bias = others.weights[:, :-1], others.weights[:, -1]
    for row in range(n_rows):
        scores = scores_of_one(own.bias[row], own.factors[row], bias, factors, mean)
        left_out = seen.indices[seen.indptr[row] : seen.indptr[row + 1]]
        _rank_all(scores, row, others, others.place[left_out], best)
    return best


class _Kept(NamedTuple):
    """The best candidates so far, as a heap for each row whose root is the worst of them.

    Attributes
    ----------
    scores : ndarray of the model's dtype, shape (n_rows, size)
    places : ndarray of int32, shape (n_rows, size)
        Of the candidates; -1 is none.
    """

    scores: np.ndarray
    places: np.ndarray


class _SeenPlaces(NamedTuple):
    """Candidates to exclude for each row of a tile, ascending.

    Attributes
    ----------
    indptr : ndarray of int64, shape (n_rows + 1,)
    places : ndarray of int32
    next : ndarray of int64, shape (n_rows,)
        The first of each row that was not excluded yet.
    """

    indptr: np.ndarray
    places: np.ndarray
    next: np.ndarray


class _Rows(NamedTuple):
    """`Factors` of the searching rows, for compiled functions."""

    bias: np.ndarray
    factors: np.ndarray


def _search(own: Factors, others: Candidates, seen: Seen, mean: float, best: Best) -> None:
    """Find the best for the rows of one tile."""
    dtype = others.weights.dtype
    n_rows, k = best.rows.shape
    weights = np.column_stack([own.factors, np.ones(n_rows, dtype)]).astype(dtype, copy=False)
    norms = np.linalg.norm(own.factors.astype(np.float64), axis=1)
    seen_places = _sorted_places(seen, others.place)
    excluded = _SeenPlaces(seen.indptr, seen_places, seen.indptr[:-1].copy())
    size = min(k + _SPARE, len(others.rows))
    kept = _Kept(np.full((n_rows, size), -np.inf, dtype), np.full((n_rows, size), -1, np.int32))
    tile, chosen = np.empty((n_rows, TILE_CANDIDATES), dtype), np.empty_like(weights)
    for number, places in enumerate(_slices(len(others.rows), TILE_CANDIDATES)):
        reach = others.tile_bias[number] + norms * others.tile_norm[number]
        active = np.flatnonzero(reach > kept.scores[:, 0])
        if not len(active):
            continue
        fixed = others.weights[places]
        scores = tile[: len(active), : len(fixed)]
        own_weights = weights
        if len(active) < n_rows:
            # Clipping lets NumPy write into memory that is there, in which all rows are.
            own_weights = weights.take(active, 0, out=chosen[: len(active)], mode="clip")
        np.matmul(own_weights, fixed.T, out=scores)
        _exclude(scores, active, places.start, excluded)
        _keep_best(scores, active, places.start, kept)
    rows, margins = _Rows(own.bias, own.factors), _margins(norms, others)
    is_certain = _rank(rows, others.weights, others.rows, mean, kept, margins, best)
    for row in np.flatnonzero(~is_certain).tolist():
        left_out = seen_places[seen.indptr[row] : seen.indptr[row + 1]]
        _search_again(own, row, others, left_out, mean, best)


def _margins(norms: np.ndarray, others: Candidates) -> np.ndarray:
    """Return by how much two scores of BLAS must differ for their order to be certain.

    A sum of n products in any order is off by at most n ulp/2 of the sum of their absolute values
    (Higham 2002, section 3.1). That holds for both scores, which makes 2; a further factor of 2
    covers the rounding of float64.
    """
    unit = np.finfo(others.weights.dtype).eps / 2
    terms = others.weights.shape[1] + 2
    biases = np.abs(others.weights[:, -1]).max(initial=0.0).astype(np.float64)
    return 4 * terms * unit * (norms * others.tile_norm.max(initial=0.0) + biases)


def _search_again(
    own: Factors, row: int, others: Candidates, left_out: np.ndarray, mean: float, best: Best
) -> None:
    """Search for one row in float64 alone."""
    scores = _all_scores(own.bias[row], own.factors[row], others.weights, mean)
    _rank_all(scores, row, others, left_out, best)


def _rank_all(
    scores: np.ndarray, row: int, others: Candidates, left_out: np.ndarray, best: Best
) -> None:
    """Set the best of a row from the scores of all candidates."""
    scores[left_out[left_out >= 0]] = -np.inf
    k = min(best.rows.shape[1], int(np.isfinite(scores).sum()))
    if not k:
        return
    least = -np.partition(-scores, k - 1)[k - 1]
    places = np.flatnonzero(scores >= least)
    places = places[np.lexsort((others.rows[places], -scores[places]))][:k]
    best.rows[row, :k] = others.rows[places]
    best.scores[row, :k] = scores[places]


def _slices(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _sorted_places(seen: Seen, place: np.ndarray) -> np.ndarray:
    """Return the positions of seen rows among the candidates, sorted for each searching row."""
    row = np.repeat(np.arange(len(seen.indptr) - 1), np.diff(seen.indptr))
    # One sort of numbers for all rows; -1, which is no candidate, becomes 0 meanwhile.
    keys = row << _PLACE_BITS | place.take(seen.indices).astype(np.int64) + 1
    keys.sort()
    places: np.ndarray = (keys & (1 << _PLACE_BITS) - 1).astype(np.int32) - np.int32(1)
    return places


@compiled
def _exclude(scores, active, start, seen):
    """Set the scores of seen candidates in a tile to minus infinity."""
    stop = start + scores.shape[1]
    for i in range(len(active)):
        row = active[i]
        at = seen.next[row]
        while at < seen.indptr[row + 1] and seen.places[at] < stop:
            if seen.places[at] >= start:
                scores[i, seen.places[at] - start] = -np.inf
            at += 1
        seen.next[row] = at


@compiled
def _keep_best(scores, active, start, kept):
    """Put the scores of a tile that are among the best into the rows' heaps."""
    n = scores.shape[1]
    for i in range(len(active)):
        row = active[i]
        # Most rows have none in most tiles.
        if not _any_above(scores, i, 0, n, kept.scores[row, 0]):
            continue
        for first in range(0, n, _GROUP):
            stop = min(first + _GROUP, n)
            if _any_above(scores, i, first, stop, kept.scores[row, 0]):
                for j in range(first, stop):
                    if scores[i, j] > kept.scores[row, 0]:
                        _replace_root(kept.scores[row], kept.places[row], scores[i, j], start + j)


@compiled
def _any_above(scores, row, first, stop, least):
    """Tell whether any of a row's scores is above another; without a branch, so vectorized."""
    above = np.int32(0)  # as wide as a score
    for j in range(first, stop):
        above += np.int32(scores[row, j] > least)
    return above > 0


@compiled
def _replace_root(kept_scores, kept_places, score, place):
    """Replace the root of a heap and restore the order of the heap."""
    size = len(kept_scores)
    at, below = 0, 1
    while below < size:
        if below + 1 < size and kept_scores[below + 1] < kept_scores[below]:
            below += 1
        if kept_scores[below] >= score:
            break
        kept_scores[at], kept_places[at] = kept_scores[below], kept_places[below]
        at, below = below, 2 * below + 1
    kept_scores[at], kept_places[at] = score, place


@compiled
def _all_scores(bias, factors, weights, mean):
    """Score one row and all candidates."""
    scores = np.empty(len(weights))
    for place in range(len(weights)):
        scores[place] = score(bias, factors, weights[place, -1], weights[place], mean)
    return scores


@compiled
def _rank(own, weights, rows, mean, kept, margins, best):
    """Rank the kept candidates by exact scores; return for which rows the result is certain."""
    n, k = best.rows.shape
    size = kept.scores.shape[1]
    is_certain = np.ones(n, np.bool_)
    found_scores = np.empty(size)
    found_rows = np.empty(size, np.int32)
    for row in range(n):
        found = 0
        for place in kept.places[row]:
            if place >= 0:
                exact = score(
                    own.bias[row], own.factors[row], weights[place, -1], weights[place], mean
                )
                _insert(found_scores, found_rows, found, exact, rows[place])
                found += 1
        n_best = min(k, found)
        best.scores[row, :n_best] = found_scores[:n_best]
        best.rows[row, :n_best] = found_rows[:n_best]
        if found == size and size < len(rows):
            # Every candidate that was not kept scored at most as much as the worst one that was.
            sorted_scores = np.sort(kept.scores[row])
            least_of_best = np.float64(sorted_scores[max(0, size - k)])
            is_certain[row] = least_of_best - np.float64(sorted_scores[0]) > margins[row]
    return is_certain


@compiled
def _insert(scores, rows, found, score, row):
    """Insert a score into the first `found`, which are sorted; of equal scores, by row."""
    at = found
    while at > 0 and (scores[at - 1] < score or (scores[at - 1] == score and rows[at - 1] > row)):
        scores[at], rows[at] = scores[at - 1], rows[at - 1]
        at -= 1
    scores[at], rows[at] = score, row


def check_k(k: Any) -> int:
    """Return the length of a list; raise InputError unless it is a whole number from 1."""
    if isinstance(k, bool | np.bool_) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"k is {k!r}; it must be a whole number, at least 1")
    return int(k)
