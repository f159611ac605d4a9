"""The best of one side for every row of the other, exactly, without holding all their scores.

Scores are computed tile by tile with BLAS, in the model's own precision, and each row keeps the few
best it has met. BLAS rounds differently in tiles of other shapes, so what it finds are only
candidates: they are scored again in float64, always in the same order, and ranked by that. If
rounding could have kept one of the best out of the candidates, which a bound on its error tells,
the row is searched again in float64 alone. Results thus have the same bits in any tiling.

A tile whose scores cannot reach what a row has met already (Cauchy-Schwarz: u·v <= |u| |v|) is not
computed for that row. Rows are laid out by that bound, the most promising first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dask_als.core.blocks import Factors
from dask_als.core.jit import compiled
from dask_als.errors import InputError
from dask_als.model.blas_threads import one_blas_thread

# Rows and candidates of a tile: its scores stay in the second cache.
TILE_ROWS = 1024
TILE_CANDIDATES = 512
# So many more than k are kept, that rounding seldom makes a row be searched again.
_SPARE = 8
# Scores are looked at so many at a time: most groups hold none of the best.
_GROUP = 32


@dataclass(frozen=True)
class Candidates:
    """The rows of one side that may be among the best, laid out for the search.

    Attributes
    ----------
    rows : ndarray of int32, shape (n,)
        Where each stands on its side; the most promising first.
    place : ndarray of int32, shape (n_rows,)
        The inverse: where each row of the side stands in `rows`, -1 if it is not among them.
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
    """Rows of the other side to be left out, for each searching row, as compressed sparse rows.

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
    """Return what leaves out nothing."""
    return Seen(np.zeros(n_rows + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))


class Best(NamedTuple):
    """The best for each searching row, from the highest score; of equal scores, the first row.

    Attributes
    ----------
    rows : ndarray of int32, shape (n_rows, k)
        Rows of the other side; -1 where there were not enough.
    scores : ndarray of float64, shape (n_rows, k)
        Predicted ratings; not a number where there were not enough.
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
        Of the searching rows' factors: the better the guess, the faster the search.
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
        What to leave out.
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
        for its in _slices(n_rows, TILE_ROWS):
            _search(own[its], others, seen[its], mean, Best(rows[its], scores[its]))
    return Best(rows, scores)


def _search(own: Factors, others: Candidates, seen: Seen, mean: float, best: Best) -> None:
    """Find the best for the rows of one tile."""
    dtype = others.weights.dtype
    n_rows, k = best.rows.shape
    weights = np.column_stack([own.factors, np.ones(n_rows, dtype)]).astype(dtype, copy=False)
    norms = np.linalg.norm(own.factors.astype(np.float64), axis=1)
    seen_places = _sorted_places(seen.indptr, seen.indices, others.place)
    next_seen = seen.indptr[:-1].copy()
    kept = min(k + _SPARE, len(others.rows))
    kept_scores = np.full((n_rows, kept), -np.inf, dtype)
    kept_places = np.full((n_rows, kept), -1, np.int32)
    tile = np.empty((n_rows, TILE_CANDIDATES), dtype)
    tiles = enumerate(_slices(len(others.rows), TILE_CANDIDATES))
    for number, places in tiles:
        reach = others.tile_bias[number] + norms * others.tile_norm[number]
        # The least kept score is the root of each heap.
        active = np.flatnonzero(reach > kept_scores[:, 0])
        if not len(active):
            continue
        fixed = others.weights[places]
        scores = tile[: len(active), : len(fixed)]
        np.matmul(weights if len(active) == n_rows else weights[active], fixed.T, out=scores)
        _leave_out(scores, active, places.start, seen.indptr, seen_places, next_seen)
        _keep_best(scores, active, places.start, kept_scores, kept_places)
    complete = _rank(
        own.bias,
        own.factors,
        others.weights,
        others.rows,
        mean,
        _margins(norms, others),
        kept_scores,
        kept_places,
        best.rows,
        best.scores,
    )
    for row in np.flatnonzero(~complete).tolist():
        left_out = seen_places[seen.indptr[row] : seen.indptr[row + 1]]
        _search_again(own, row, others, left_out, mean, best)


def _margins(norms: np.ndarray, others: Candidates) -> np.ndarray:
    """Return how far apart two scores of BLAS must be for their order to be certain.

    A sum of n products in any order is off by at most n ulp/2 of the sum of their absolute values
    (Higham 2002, section 3.1). Both scores may be, and float64 is not exact either: twice, and so
    again.
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


@compiled
def _sorted_places(indptr, indices, place):
    """Return where seen rows stand among the candidates, sorted for each searching row."""
    places = np.empty(len(indices), np.int32)
    for row in range(len(indptr) - 1):
        for i in range(indptr[row], indptr[row + 1]):
            places[i] = place[indices[i]]
        places[indptr[row] : indptr[row + 1]].sort()
    return places


@compiled
def _leave_out(scores, active, start, indptr, seen_places, next_seen):
    """Put what a row has seen below all others, in a tile of scores."""
    stop = start + scores.shape[1]
    for i in range(len(active)):
        row = active[i]
        at = next_seen[row]
        while at < indptr[row + 1] and seen_places[at] < stop:
            if seen_places[at] >= start:
                scores[i, seen_places[at] - start] = -np.inf
            at += 1
        next_seen[row] = at


@compiled
def _keep_best(scores, active, start, kept_scores, kept_places):
    """Take scores of a tile into the rows' heaps, whose root is the least that is kept."""
    n = scores.shape[1]
    size = kept_scores.shape[1]
    for i in range(len(active)):
        row = active[i]
        least = kept_scores[row, 0]
        for first in range(0, n, _GROUP):
            last = min(first + _GROUP, n)
            above = 0
            for j in range(first, last):
                above += scores[i, j] > least
            if above == 0:
                continue
            for j in range(first, last):
                score = scores[i, j]
                if score > least:
                    # Put it in place of the root, and let it sink.
                    at = 0
                    while True:
                        below = 2 * at + 1
                        if below >= size:
                            break
                        if below + 1 < size and (
                            kept_scores[row, below + 1] < kept_scores[row, below]
                        ):
                            below += 1
                        if kept_scores[row, below] >= score:
                            break
                        kept_scores[row, at] = kept_scores[row, below]
                        kept_places[row, at] = kept_places[row, below]
                        at = below
                    kept_scores[row, at] = score
                    kept_places[row, at] = start + j
                    least = kept_scores[row, 0]


@compiled
def _score(bias, factors, weights, mean):
    """Score one pair in float64: always the same operations in the same order."""
    rank = len(factors)
    product = 0.0
    for i in range(rank):
        product += np.float64(factors[i]) * np.float64(weights[i])
    return mean + (np.float64(bias) + np.float64(weights[rank])) + product


@compiled
def _all_scores(bias, factors, weights, mean):
    """Score one row and all candidates."""
    scores = np.empty(len(weights))
    for place in range(len(weights)):
        scores[place] = _score(bias, factors, weights[place], mean)
    return scores


@compiled
def _rank(
    bias, factors, weights, rows, mean, margins, kept_scores, kept_places, best_rows, best_scores
):
    """Rank what was kept by exact scores; return for which rows that is certain to be right."""
    n, k = best_rows.shape
    size = kept_scores.shape[1]
    complete = np.ones(n, np.bool_)
    found_scores = np.empty(size)
    found_rows = np.empty(size, np.int32)
    for row in range(n):
        found = 0
        for i in range(size):
            place = kept_places[row, i]
            if place < 0:
                continue
            score = _score(bias[row], factors[row], weights[place], mean)
            other = rows[place]
            at = found
            while at > 0 and (
                found_scores[at - 1] < score
                or (found_scores[at - 1] == score and found_rows[at - 1] > other)
            ):
                found_scores[at] = found_scores[at - 1]
                found_rows[at] = found_rows[at - 1]
                at -= 1
            found_scores[at] = score
            found_rows[at] = other
            found += 1
        for i in range(min(k, found)):
            best_scores[row, i] = found_scores[i]
            best_rows[row, i] = found_rows[i]
        if found == size and size < len(rows):
            # All that was not kept scored at most as much as the least that was.
            sorted_scores = np.sort(kept_scores[row])
            least_of_best = np.float64(sorted_scores[max(0, size - k)])
            complete[row] = least_of_best - np.float64(sorted_scores[0]) > margins[row]
    return complete


def best_rows(
    one: Factors,
    others: Factors,
    k: int,
    *,
    without: np.ndarray,
    mean: float,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the best rows of the other side for a single row.

    Parameters
    ----------
    one : Factors
        Of the one row.
    others : Factors
        Of the whole other side.
    k : int
    without : ndarray of int
        Rows that are left out, such as those with a rating.
    mean : float
        The global mean, which is added to each score.
    allowed : ndarray of bool, optional
        Which rows may be among the best; all if it is not given.

    Returns
    -------
    rows : ndarray of int32
        At most k, the best first.
    scores : ndarray

    Raises
    ------
    InputError
        If k is below 1.
    """
    check_k(k)
    laid_out = candidates(others, allowed=allowed)
    seen = Seen(np.array([0, len(without)]), without.astype(np.int32))
    best = top_k(one, laid_out, min(k, len(laid_out.rows)), seen=seen, mean=mean)
    found = best.rows[0] >= 0
    return best.rows[0][found], best.scores[0][found]


def check_k(k: int) -> None:
    """Raise InputError unless k, the length of a list, is at least 1."""
    if k < 1:
        raise InputError(f"k is {k}; it must be at least 1")
