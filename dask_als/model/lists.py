"""Ranked lists of a model in memory: recommendations, and similar rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dask_als.core.blocks import Factors
from dask_als.core.side import USERS, Side
from dask_als.errors import InputError
from dask_als.model.ids import Unknown, is_single, listed
from dask_als.model.recommend import allowed_rows
from dask_als.model.rows import UNKNOWN
from dask_als.model.similarity import Measure, similarities
from dask_als.model.top_k import Best, Seen, candidates, check_k, top_k, top_k_of_few
from dask_als.model.training_data import seen_by

if TYPE_CHECKING:
    from dask_als.model.in_memory import InMemoryModel

# So few products take less time in NumPy than numba takes to import.
_FEW_PRODUCTS = 1 << 21


def recommended(
    model: InMemoryModel,
    side: Side,
    identifier: Any,
    k: int,
    *,
    seen: bool,
    std: bool,
    include: Sequence[Any] | None,
    exclude: Sequence[Any],
    unknown: Unknown,
) -> pd.DataFrame:
    """Return the best for a user or an item, or for several; see `ALSModel.recommend_to`."""
    k, ids = check_k(k), listed(identifier)
    own, other = model.rows(side), model.rows(side.other)
    rows = own.rows(ids, unknown=unknown)
    excluded = None
    if not seen and (rows != UNKNOWN).any():
        excluded = seen_by(model.training_data(side), side, rows)
    searching = Factors(own.with_unknown.bias[rows], own.with_unknown.factors[rows])
    allowed = allowed_rows(other.ids, side.other, include, exclude)
    best = _best(model, side, searching, k, excluded, allowed)
    place, rank = np.nonzero(best.rows >= 0)
    found = best.rows[place, rank]
    columns = {"score": best.scores[place, rank]}
    if std:
        user_rows, item_rows = (rows[place], found) if side is USERS else (found, rows[place])
        columns["std"] = model.deviations(user_rows, item_rows)
    frame = model.described(side.other, found, **columns)
    frame.insert(0, "rank", rank + 1)
    if not is_single(identifier):
        frame.insert(0, f"{side.singular}_id", own.checked(ids)[place])
    return frame


def recommended_to_one(
    model: InMemoryModel, side: Side, one: Factors, k: int, *, without: np.ndarray
) -> pd.DataFrame:
    """Return the best for a row that is not in the model.

    Parameters
    ----------
    side : Side
        Of the row.
    one : Factors
    without : ndarray of int
        Rows of the other side to exclude.
    """
    excluded = Seen(np.array([0, len(without)]), without.astype(np.int32))
    best = _best(model, side, one, check_k(k), excluded, None)
    found = best.rows[0] >= 0
    frame = model.described(side.other, best.rows[0][found], score=best.scores[0][found])
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    return frame


def _best(
    model: InMemoryModel,
    side: Side,
    searching: Factors,
    k: int,
    excluded: Seen | None,
    allowed: np.ndarray | None,
) -> Best:
    others = candidates(model.rows(side.other).state, allowed=allowed)
    is_few = len(searching.bias) * others.weights.size <= _FEW_PRODUCTS
    search = top_k_of_few if is_few else top_k
    mean = model.manifest.global_mean
    return search(searching, others, min(k, len(others.rows)), seen=excluded, mean=mean)


def most_similar(
    model: InMemoryModel,
    side: Side,
    identifier: Any,
    k: int,
    *,
    least_ratings: int,
    measure: Measure,
) -> pd.DataFrame:
    """Return the rows of a side whose factors are most similar; see `ALSModel.similar`."""
    k, rows = check_k(k), model.rows(side)
    row = rows.row(identifier)
    if not rows.counts[row]:
        raise InputError(
            f"{side.singular} {rows.ids[row]} has no training rating, so its factors say nothing "
            f"about similar {side.name}"
        )
    scores = similarities(rows.state.factors, row, measure)
    is_candidate = rows.counts >= least_ratings
    is_candidate[row] = False
    order = np.argsort(np.where(is_candidate, -scores, np.inf), kind="stable")
    order = order[: min(k, int(is_candidate.sum()))]
    frame = model.described(side, order, score=scores[order])
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    return frame
