"""Weights of ratings: what a column says, how they decay, and those of pairs with several rows.

A weight is a float32 above 0. A dataset keeps the weights that count: those of the column, if the
source has one, times 2 ** -(age / half-life), if they decay. The age is counted from the newest
training rating. A held-out rating that is newer has the weight of age 0.

Rows of one pair decay before they are merged. By the rule ``mean``, the rating is their weighted
mean and the weight the mean of theirs. By ``sum``, the weight is their mean, each counted as often
as its rating's size: then weight times rating is the sum of those of the rows. By ``last``, both
are of the last row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dask_als.data.split import Pairs, unit_of_times

LEAST_WEIGHT = np.float32(2.0**-100)
"""What is smaller is rounded up to it: its root and products with ratings are normal float32."""

_SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Decay:
    """How weights decay with the age of ratings.

    Attributes
    ----------
    newest : float
        The time of the newest training rating.
    half_life : float
        In the unit of the times.
    """

    newest: float
    half_life: float

    @classmethod
    def of_days(cls, newest: float, days: float, largest: float) -> Decay:
        """Return it for a half-life in days; the largest of all times tells their unit."""
        return cls(newest, days * _SECONDS_A_DAY * unit_of_times(largest)[1])

    def of(self, times: np.ndarray) -> np.ndarray:
        """Return the part that is left of the weight of ratings from some times; float64."""
        age = np.maximum(self.newest - times, 0) / self.half_life
        part: np.ndarray = np.exp2(-age)
        return part


def weights_of_rows(
    given: np.ndarray | None, times: np.ndarray | None, decay: Decay | None
) -> np.ndarray | None:
    """Return the weights of rows, float32, or None if they have none.

    Parameters
    ----------
    given, times : ndarray or None
        Their column of weights, and their times.
    """
    if decay is None:
        return given
    assert times is not None, "weights that decay need times"
    weights = decay.of(times)
    if given is not None:
        weights *= given
    return np.maximum(weights.astype(np.float32), LEAST_WEIGHT)


def merged_weights(
    pairs: Pairs, ratings: np.ndarray, weights: np.ndarray, duplicates: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return rating and weight of each pair with several rows, by the rule ``mean`` or ``sum``.

    Parameters
    ----------
    ratings, weights : ndarray of float32
        Of all rows, in the order of the source.

    Returns
    -------
    ratings, weights : ndarray of float64, shape (number of these pairs,)
        They do not depend on the order of the rows.
    """
    position, pair, ends = pairs.of_several()
    counts = pairs.counts[pairs.several]
    ascending = np.lexsort((weights[position], ratings[position], pair))
    rating, weight = (values[position][ascending].astype(float) for values in (ratings, weights))

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, ends - counts) if len(values) else values

    if duplicates == "mean":
        return total(weight * rating) / total(weight), total(weight) / counts
    sizes = total(np.abs(rating))
    has_size = sizes > 0
    weighted, mean = total(weight * np.abs(rating)), total(weight) / counts
    return total(rating), np.divide(weighted, sizes, where=has_size, out=mean)
