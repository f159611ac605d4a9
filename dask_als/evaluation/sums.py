"""Exact sums over held-out ratings: the sums of several partitions are added without rounding."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from dask_als.core.blocks import Block, Factors
from dask_als.core.superaccumulator import as_float, exact_count, exact_sum
from dask_als.evaluation.ranking_metrics import MEASURES, measures
from dask_als.evaluation.results import Errors, Ranking
from dask_als.solvers.objective import rmse


class _Sums:
    """A dataclass whose fields are added one by one; sets of items are united."""

    def __add__(self, other: Self) -> Self:
        added = {
            field.name: _added(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)  # type: ignore[arg-type]
        }
        return type(self)(**added)


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, np.ndarray):
        return one | other
    if isinstance(one, dict):
        return {name: _added(value, other[name]) for name, value in one.items()}
    return one + other


@dataclass(frozen=True)
class ErrorSums(_Sums):
    """Sums of the errors of one predictor, as `exact_sum` makes them, each times its weight.

    Attributes
    ----------
    squared, absolute : int
    squared_clipped, absolute_clipped : int
        With predictions clipped to the range of the training ratings.
    squared_cold : int
        Over ratings whose user or item has no training rating.
    squared_described : int
        Over those of them that the model predicts from attributes.
    """

    squared: int
    absolute: int
    squared_clipped: int
    absolute_clipped: int
    squared_cold: int
    squared_described: int

    def errors(self, weight: int, cold_weight: int, described_weight: int) -> Errors:
        """Return the errors of ratings with a total weight, of which a part is cold."""
        total, cold = as_float(weight), as_float(cold_weight)
        of_described = as_float(described_weight)
        return Errors(
            rmse=rmse(self.squared, total),
            mae=as_float(self.absolute) / total,
            rmse_clipped=rmse(self.squared_clipped, total),
            mae_clipped=as_float(self.absolute_clipped) / total,
            rmse_cold=rmse(self.squared_cold, cold) if cold else None,
            rmse_described=rmse(self.squared_described, of_described) if of_described else None,
        )


@dataclass(frozen=True)
class RankingSums(_Sums):
    """Sums over the ranked lists of one predictor.

    Attributes
    ----------
    measures : dict of str to int
        Exact sums by the names in `MEASURES`.
    recommended : int
        Items in all lists.
    popularity : int
        Training ratings of these items.
    items : ndarray of uint8
        The set of items in the lists, one bit each.
    """

    measures: dict[str, int]
    recommended: int
    popularity: int
    items: np.ndarray

    def ranking(self, n_lists: int, n_items: int) -> Ranking:
        """Return the means over `n_lists` lists of `n_items` items."""
        means = {name: as_float(self.measures[name]) / n_lists for name in MEASURES}
        return Ranking(
            **means,
            coverage=set_size(self.items) / n_items,
            popularity=self.popularity / max(1, self.recommended),
        )


@dataclass(frozen=True)
class PartSums(_Sums):
    """Sums over the held-out ratings of some users.

    Attributes
    ----------
    n_test, n_cold, n_described : int
        Held-out ratings, those whose user or item has no training rating, and those of them that
        the model predicts from attributes.
    weight, cold_weight, described_weight : int
        Exact sums of their weights; without weights, of as many ones.
    cold_users : int
        Users without a training rating.
    n_lists : int
        Users with a relevant held-out item.
    n_relevant, popularity : int
        Relevant held-out items, and the training ratings of these items.
    cold_items : ndarray of uint8
        The set of items without a training rating, one bit each.
    errors : dict of str to ErrorSums
        By predictor.
    ranking : dict of str to RankingSums
        By predictor.
    """

    n_test: int
    n_cold: int
    n_described: int
    weight: int
    cold_weight: int
    described_weight: int
    cold_users: int
    n_lists: int
    n_relevant: int
    popularity: int
    cold_items: np.ndarray
    errors: dict[str, ErrorSums]
    ranking: dict[str, RankingSums]


def weight_of(test: Block, chosen: np.ndarray | None = None) -> int:
    """Return the exact sum of the weights of ratings, or of those chosen."""
    if test.weights is None:
        return exact_count(len(test.ratings) if chosen is None else int(chosen.sum()))
    return exact_sum(test.weights if chosen is None else test.weights[chosen])


def error_sums(
    test: Block,
    predicted: np.ndarray,
    is_cold: np.ndarray,
    is_described: np.ndarray,
    bounds: tuple[float, float],
) -> ErrorSums:
    """Sum the errors of predictions, each times the weight of its rating.

    Parameters
    ----------
    test : Block
        The ratings.
    is_cold, is_described : ndarray of bool
        See `PartSums`.
    bounds : (float, float)
        The range of the training ratings.
    """
    error = test.ratings - predicted
    clipped = test.ratings - np.clip(predicted, *bounds)
    squared = test.weighted(error**2)
    return ErrorSums(
        squared=exact_sum(squared),
        absolute=exact_sum(test.weighted(np.abs(error))),
        squared_clipped=exact_sum(test.weighted(clipped**2)),
        absolute_clipped=exact_sum(test.weighted(np.abs(clipped))),
        squared_cold=exact_sum(squared[is_cold]),
        squared_described=exact_sum(squared[is_described]),
    )


def ranking_sums(
    recommended: np.ndarray, indptr: np.ndarray, relevant: np.ndarray, item_counts: np.ndarray
) -> RankingSums:
    """Sum the measures of ranked lists.

    Parameters
    ----------
    recommended, indptr, relevant
        As for `dask_als.evaluation.ranking_metrics.measures`.
    item_counts : ndarray of int64
        Training ratings of each item.
    """
    found = recommended[recommended >= 0]
    return RankingSums(
        measures={
            name: exact_sum(values)
            for name, values in measures(recommended, indptr, relevant).items()
        },
        recommended=len(found),
        popularity=int(item_counts[found].sum()),
        items=set_of(found, len(item_counts)),
    )


def set_of(items: np.ndarray, n_items: int) -> np.ndarray:
    """Return a set of items, one bit each."""
    is_member = np.zeros(n_items, dtype=bool)
    is_member[items] = True
    return np.packbits(is_member)


def set_size(bits: np.ndarray) -> int:
    """Return how many items a set holds."""
    return int(np.bitwise_count(bits).sum())


def described(
    is_cold: tuple[np.ndarray, np.ndarray], factors: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return which cold ratings are predicted from attributes: no row is at the fallback.

    Parameters
    ----------
    is_cold : (ndarray of bool, ndarray of bool)
        Whether the user, and the item, of each rating has no training rating.
    factors : (ndarray, ndarray)
        Whether the user, and the item, of each rating has factors that are not 0.
    """
    known = [~cold | has_factors for cold, has_factors in zip(is_cold, factors, strict=True)]
    found: np.ndarray = (is_cold[0] | is_cold[1]) & known[0] & known[1]
    return found


def has_factors(state: Factors) -> np.ndarray:
    """Return which rows have factors that are not all 0."""
    return np.asarray(state.factors.any(axis=1))
