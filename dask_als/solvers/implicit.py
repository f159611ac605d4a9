"""A half-epoch for implicit feedback: no biases, and one Gram matrix that all rows share.

It minimizes the loss

    lambda Σ c (p - u·v)² + tau (Σ w_u^nu |u|² + Σ w_v^nu |v|²)

over ALL pairs of users and items. p are preferences, c confidences, and w their sums over a row's
pairs; see `kernels.implicit`. The objective L is minus half the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dask_als.core.blocks import Block, Factors
from dask_als.core.superaccumulator import as_float, exact_sum
from dask_als.kernels.implicit import (
    gram_of_chunks,
    gram_of_side,
    grams_of_chunks,
    grams_of_complete_chunks,
    rows_outside_chunks,
    solve_rows_implicit,
)
from dask_als.settings.training import TrainSettings
from dask_als.solvers import base
from dask_als.solvers.base import HalfEpoch, HomeSums, SolvedPart, SolvedSide
from dask_als.solvers.objective import Sums, objective
from dask_als.solvers.row_prior import Regression, RowPrior, penalty_of


@dataclass(frozen=True)
class PartMoments:
    """A partition's contribution to `SharedMoments`.

    Attributes
    ----------
    grams : dict of int to ndarray of float64, shape (rank, rank)
        Gram matrices of the chunks of rows that lie within the partition.
    confidence : int
        The exact sum of the confidences of all pairs of its rows.
    """

    grams: dict[int, np.ndarray]
    confidence: int


@dataclass(frozen=True)
class SharedMoments:
    """Statistics of a side that all rows share in the next half-epoch.

    Attributes
    ----------
    gram : ndarray of float64, shape (rank, rank)
        Of all rows of the fixed side.
    confidence : int
        The exact sum of the confidences of all pairs.
    n_rows : int
        The number of all rows of the fixed side.
    """

    gram: np.ndarray
    confidence: int
    n_rows: int


@dataclass(frozen=True)
class ImplicitLeastSquares:
    """Alternating least squares for implicit feedback: every row is set to its best factors."""

    settings: TrainSettings

    def start_part(
        self,
        initial: Factors,
        rated: np.ndarray | None = None,
        residual_precision: float | None = None,
    ) -> SolvedPart:
        """Wrap initial factors; biases are set to zero."""
        without = Factors(np.zeros_like(initial.bias), initial.factors)
        part = base.unsolved_part(without, rated)
        return SolvedPart(part.solution, part.rated, part.sums)

    def solve_part(
        self,
        step: HalfEpoch,
        block: Block,
        own: SolvedSide,
        fixed: SolvedSide,
        row_prior: RowPrior | None = None,
    ) -> SolvedPart:
        """Solve the rows of a partition."""
        settings = self.settings
        its = slice(block.rows.start, block.rows.stop)
        means = None if row_prior is None else row_prior.means[its]
        regularization = settings.regularization(step.side)
        factors, squared_error, confidence = solve_rows_implicit(  # type: ignore[no-untyped-call]
            block.indptr,
            block.indices,
            # A rating adds to the confidence of its pair as many times as its weight says.
            block.weighted(block.ratings),
            fixed.solution.factors,
            fixed.shared.gram,
            alpha=settings.confidence,
            factor_ridge=regularization.factor / settings.residual_precision,
            exponent=settings.frequency_exponent,
            row_means=means,
            n_fixed=fixed.shared.n_rows,
            nonnegative=settings.nonnegative,
        )
        deviations = factors
        if means is not None:
            deviations = np.where(block.counts[:, None] > 0, factors - means, 0)
        norms = np.einsum("nk,nk->n", deviations, deviations, dtype=np.float64)
        grams = grams_of_chunks(block.rows.start, factors)  # type: ignore[no-untyped-call]
        weighted_norms = confidence**settings.frequency_exponent * norms
        return SolvedPart(
            solution=Factors(np.zeros(len(factors), factors.dtype), factors),
            rated=block.counts > 0,
            sums=Sums(exact_sum(squared_error), 0, exact_sum(weighted_norms)),
            moments=(PartMoments(grams, exact_sum(confidence)),),
        )

    def join_parts(
        self, step: HalfEpoch, parts: list[SolvedPart], row_prior: RowPrior | None = None
    ) -> SolvedSide:
        """Join the partitions of a side and add its Gram matrix.

        Rows that have attributes alone are predicted: nobody could prefer them yet, so they are not
        among the rows that the other side is solved with.
        """
        side = base.join_parts(parts)
        rated = [_of_rated(part) for part in parts]
        factors = np.concatenate(rated)
        moments = _moments_of(parts)
        gram = gram_of_side(factors, moments.grams)  # type: ignore[no-untyped-call]
        joined = replace(side, shared=SharedMoments(gram, moments.confidence, len(factors)))
        if row_prior is None:
            return joined
        predicted = row_prior.with_cold_rows(factors, np.zeros(factors.shape[1]))
        return replace(
            joined,
            solution=Factors(side.solution.bias, predicted),
            sums=side.sums + penalty_of(row_prior),
        )

    def regression(self, own: SolvedSide) -> Regression:
        """Return what the weights of a side's attributes are fitted to: their best values."""
        return Regression(np.zeros(own.solution.factors.shape[1]), None)

    def sums_of_home(self, rows: list[range], parts: list[SolvedPart]) -> HomeSums:
        """Return the sums of a home's rows, and what it knows of the Gram matrix."""
        moments = _moments_of(parts)
        outside = []
        for its, part in zip(rows, parts, strict=True):
            factors = _of_rated(part)
            if not part.moments:  # initial factors
                moments.grams.update(grams_of_chunks(its.start, factors))  # type: ignore[no-untyped-call]
            outside.append(rows_outside_chunks(its.start, factors))  # type: ignore[no-untyped-call]
        complete, others = grams_of_complete_chunks(outside)  # type: ignore[no-untyped-call]
        moments.grams.update(complete)
        return base.sums_of_home(*parts, moments=(moments, others))

    def join_homes(self, step: HalfEpoch, homes: list[HomeSums], no_rows: Factors) -> SolvedSide:
        """Join a side but for its rows."""
        grams: dict[int, np.ndarray] = {}
        for home in homes:
            grams.update(home.moments[0].grams)
        complete, last = grams_of_complete_chunks([home.moments[1] for home in homes])  # type: ignore[no-untyped-call]
        gram = gram_of_chunks(grams | complete, last)  # type: ignore[no-untyped-call]
        confidence = sum(home.moments[0].confidence for home in homes)
        n_rows = sum(home.n_rows for home in homes)
        joined = base.join_homes(homes, no_rows)
        return replace(joined, shared=SharedMoments(gram, confidence, n_rows))

    def figures(
        self, first: SolvedSide, last: SolvedSide, n_ratings: int, weight: float
    ) -> tuple[float, float]:
        """Return objective, and RMSE over all pairs, weighted by confidence."""
        value = objective(first.sums, last.sums, self.settings)
        error, confidence = last.sums.squared_error, last.shared.confidence
        return value, math.sqrt(as_float(error) / as_float(confidence))

    def held_out_error(self, block: Block, users: SolvedSide, items: SolvedSide) -> int:
        """Return the exact sum of squared errors of held-out preferences."""
        preferences = (block.ratings > 0).astype(block.ratings.dtype)
        return base.held_out_error(replace(block, ratings=preferences), users, items, 0.0)


def _of_rated(part: SolvedPart) -> np.ndarray:
    """Return the factors of a partition's rows, 0 for those without ratings."""
    return np.where(part.rated[:, None], part.solution.factors, part.solution.factors.dtype.type(0))


def _moments_of(parts: list[SolvedPart]) -> PartMoments:
    """Join the moments of partitions."""
    moments: list[PartMoments] = [moment for part in parts for moment in part.moments]
    grams = {number: gram for moment in moments for number, gram in moment.grams.items()}
    return PartMoments(grams, sum(moment.confidence for moment in moments))
