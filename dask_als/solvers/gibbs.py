"""Bayesian matrix factorization: a half-epoch draws every row instead of solving it.

The prior of a side's rows is itself drawn once an epoch, given the rows. With n rated rows, u their
factors, ū the mean of these, S = Σ (u - ū)(u - ū)ᵀ, b their biases, and a Wishart prior with the
weight of d = 3000 rows of precision t = factor_regularization · √(k / 16)::

    Lambda ~ Wishart(k + d + n, (d / t I + S + n / (n + 1) ū ūᵀ)⁻¹)
    mu     ~ Normal(n ū / (n + 1), (n + 1)⁻¹ Lambda⁻¹)
    gamma  ~ Gamma(1 + n / 2, rate 1 + Σ b² / 2)
    alpha  ~ Gamma(1 + N / 2, rate 1 + Σ error² / 2)          N ratings

Source: Salakhutdinov and Mnih 2008, "Bayesian probabilistic matrix factorization using Markov chain
Monte Carlo"; Gamma(1, 1) for the precisions as in Rendle 2012, "Factorization machines with libFM".
The Wishart prior is stronger than theirs, which has d = k. This lowers the error on small data; the
more data, the less it matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from dask_als.core import random as draws
from dask_als.core.blocks import Block, Factors
from dask_als.core.side import ITEMS
from dask_als.core.superaccumulator import as_float
from dask_als.kernels.gibbs import draw_rows
from dask_als.kernels.implicit import gram_of_side, grams_of_chunks
from dask_als.settings.training import TrainSettings
from dask_als.solvers import base
from dask_als.solvers.base import HalfEpoch, SolvedPart, SolvedSide
from dask_als.solvers.objective import rmse, sums_of
from dask_als.solvers.row_prior import Regression, RowPrior

# The strength of the prior of the factors' precision, as a number of rows.
PRIOR_ROWS = 3000.0

# The residual precision in the first half-epoch; the first draw comes after it.
_FIRST_RESIDUAL_PRECISION = 1.0

# Streams of random numbers: each constant is the users' stream, and the next number the items'.
# The rows have streams 0 and 1, see `blocks.random_factors`.
_PRIOR_STREAM = 2
_RESIDUAL_STREAM = 4


@dataclass(frozen=True)
class Prior:
    """A draw of the prior of a side's rows.

    Attributes
    ----------
    bias_precision : float
        gamma.
    factor_mean : ndarray of float64, shape (rank,)
    factor_precision : ndarray of float64, shape (rank, rank)
    """

    bias_precision: float
    factor_mean: np.ndarray
    factor_precision: np.ndarray


@dataclass(frozen=True)
class Moments:
    """A partition's contribution to the draw of its side's prior, besides `SolvedPart.sums`.

    Attributes
    ----------
    grams : dict of int to ndarray of float64, shape (rank, rank)
        Of the factors, by chunk; see `grams_of_chunks`.
    n_ratings : int
        0 for initial factors, whose errors are unknown.
    residual_precision : float or None
        The draw that was recorded with the initial factors, if any.
    """

    grams: dict[int, np.ndarray] = field(default_factory=dict)
    n_ratings: int = 0
    residual_precision: float | None = None


@dataclass(frozen=True)
class Gibbs:
    """Gibbs sampling of biased matrix factorization; each epoch is a sample."""

    settings: TrainSettings
    mean: float

    def start_part(
        self,
        initial: Factors,
        rated: np.ndarray | None = None,
        residual_precision: float | None = None,
    ) -> SolvedPart:
        """Wrap initial factors."""
        rated = np.ones(len(initial.bias), dtype=bool) if rated is None else rated
        sums = sums_of(
            Factors(initial.bias * rated, initial.factors), np.zeros(0), np.ones(len(rated))
        )
        return SolvedPart(initial, rated, sums, (Moments(residual_precision=residual_precision),))

    def solve_part(
        self,
        step: HalfEpoch,
        block: Block,
        own: SolvedSide,
        fixed: SolvedSide,
        row_prior: RowPrior | None = None,
    ) -> SolvedPart:
        """Draw the rows of a partition."""
        prior: Prior = own.shared
        its = slice(block.rows.start, block.rows.stop)
        means = None if row_prior is None else row_prior.means[its]
        rank = own.solution.factors.shape[1]
        noise = draws.standard_normal(
            block.rows,
            rank + 1,
            seed=self.settings.seed,
            stream=int(step.side is ITEMS),
            step=step.epoch,
            dtype=self.settings.dtype,
        )
        bias, factors, squared_error = draw_rows(  # type: ignore[no-untyped-call]
            block.indptr,
            block.indices,
            block.ratings,
            own.rows(block.rows).factors,
            fixed.solution.bias,
            fixed.solution.factors,
            noise,
            mean=self.mean,
            residual_precision=fixed.residual_precision,
            bias_precision=prior.bias_precision,
            factor_mean=prior.factor_mean,
            factor_precision=prior.factor_precision,
            row_means=means,
            weights=block.weights,
        )
        solution = Factors(bias, factors)
        deviations = factors if means is None else factors - means
        if row_prior is not None and row_prior.from_file is not None:
            deviations[block.counts == 0] = 0
        grams = grams_of_chunks(block.rows.start, deviations)  # type: ignore[no-untyped-call]
        moments = Moments(grams, n_ratings=len(block.ratings))
        sums = sums_of(solution, squared_error, np.ones(len(block.rows)))
        return SolvedPart(solution, block.counts > 0, sums, (moments,))

    def join_parts(
        self, step: HalfEpoch, parts: list[SolvedPart], row_prior: RowPrior | None = None
    ) -> SolvedSide:
        """Join the partitions of a side and draw the prior of its next half-epoch."""
        joined = base.join_parts(parts)
        moments: list[Moments] = [moment for part in parts for moment in part.moments]
        grams = {n: gram for moment in moments for n, gram in moment.grams.items()}
        n_rows = sum(int(part.rated.sum()) for part in parts)
        weight = self.settings.regularization(step.side).factor
        rng = self._generator(_PRIOR_STREAM, step)
        bias_precision = _gamma(rng, n_rows, as_float(joined.sums.squared_bias))
        deviations, n_weights = joined.solution.factors, 0
        if row_prior is not None:
            deviations, n_weights = deviations - row_prior.means, len(row_prior.weights)
            deviations = row_prior.of_rated(deviations)
            if row_prior.from_file is not None:
                n_rows = row_prior.n_rated
        gram = gram_of_side(deviations, grams)  # type: ignore[no-untyped-call]
        if row_prior is not None:
            # The prior of the weights has the same precision, times the ridge.
            of_weights = gram_of_side(row_prior.weights, {})  # type: ignore[no-untyped-call]
            gram = gram + row_prior.ridge * of_weights
        factor_mean, factor_precision = _normal_wishart(
            rng,
            n_rows,
            deviations.sum(axis=0, dtype=np.float64),
            gram,
            # The root gives a product of factors the same prior variance at any rank.
            weight * math.sqrt(joined.solution.factors.shape[1] / 16),
            n_weights,
        )
        prior = Prior(bias_precision, factor_mean, factor_precision)
        solution = joined.solution
        if row_prior is not None:
            factors = row_prior.with_cold_rows(solution.factors, factor_mean)
            solution = Factors(solution.bias, factors)
        return replace(
            joined,
            solution=solution,
            shared=prior,
            residual_precision=self._residual_precision(step, moments, joined.sums.squared_error),
        )

    def regression(self, own: SolvedSide) -> Regression:
        """Return what the weights of a side's attributes are drawn from."""
        prior: Prior = own.shared
        lower = _cholesky(prior.factor_precision)
        return Regression(prior.factor_mean, _solve_upper(lower.T, np.eye(len(lower))).T)

    def _residual_precision(
        self, step: HalfEpoch, moments: list[Moments], squared_error: int
    ) -> float:
        """Draw the precision given the errors; without errors, use the recorded draw, if any."""
        n_ratings = sum(moment.n_ratings for moment in moments)
        if n_ratings:
            # A stream of its own, because a resumed run skips this draw and uses the recorded one.
            rng = self._generator(_RESIDUAL_STREAM, step)
            return _gamma(rng, n_ratings, as_float(squared_error))
        kept = moments[0].residual_precision
        return _FIRST_RESIDUAL_PRECISION if kept is None else kept

    def _generator(self, stream: int, step: HalfEpoch) -> np.random.Generator:
        stream += int(step.side is ITEMS)
        return draws.generator(seed=self.settings.seed, stream=stream, step=step.epoch)

    def figures(
        self, first: SolvedSide, last: SolvedSide, n_ratings: int, weight: float
    ) -> tuple[float, float]:
        """Return log density of the ratings given the sample, without 2 pi, and RMSE."""
        precision = last.residual_precision
        assert precision is not None, "join_parts draws it"
        error = as_float(last.sums.squared_error)
        density = 0.5 * (n_ratings * math.log(precision) - precision * error)
        return density, rmse(last.sums.squared_error, weight)

    def held_out_error(self, block: Block, users: SolvedSide, items: SolvedSide) -> int:
        """Return the exact sum of squared errors of the sample."""
        return base.held_out_error(block, users, items, self.mean)


def _gamma(rng: np.random.Generator, n: int, squares: float) -> float:
    """Draw the precision of n Normal numbers with mean 0 and this sum of squares."""
    return float(rng.gamma(1 + n / 2) / (1 + squares / 2))


def _normal_wishart(
    rng: np.random.Generator,
    n: int,
    total: np.ndarray,
    gram: np.ndarray,
    precision: float,
    n_centered: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw mean and precision of n Normal vectors with this sum and Gram matrix.

    The Gram matrix may have `n_centered` more, of the same precision and with the mean 0.
    The Wishart draw is Bartlett's, C T Tᵀ Cᵀ: C Cᵀ is the scale, T a random triangular matrix.
    """
    rank = len(total)
    scatter = PRIOR_ROWS / precision * np.eye(rank) + gram - np.outer(total, total) / (n + 1)
    lower = _cholesky(scatter)
    normal = rng.standard_normal((rank, rank))
    freedom = rank + PRIOR_ROWS + n + n_centered - np.arange(rank)
    bartlett = np.tril(normal, -1) + np.diag(np.sqrt(2 * rng.gamma(freedom / 2)))
    # Lambda = W Wᵀ with W = L⁻ᵀ T; so W⁻ᵀ = L T⁻ᵀ, whose columns have the covariance Lambda⁻¹.
    root = _solve_upper(lower.T, bartlett)
    noise = np.einsum("ij,j->i", lower, _solve_upper(bartlett.T, rng.standard_normal(rank)))
    return total / (n + 1) + noise / math.sqrt(n + 1), np.einsum("ip,jp->ij", root, root)


# Not LAPACK: its bits depend on the BLAS library and its threads; those of these two do not.


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    lower = np.zeros_like(matrix)
    for j in range(len(matrix)):
        column = matrix[j:, j] - np.einsum("ip,p->i", lower[j:, :j], lower[j, :j])
        lower[j:, j] = column / math.sqrt(column[0])
    return lower


def _solve_upper(upper: np.ndarray, right: np.ndarray) -> np.ndarray:
    solution = np.zeros_like(right)
    for i in reversed(range(len(upper))):
        known = np.einsum("j,j...->...", upper[i, i + 1 :], solution[i + 1 :])
        solution[i] = (right[i] - known) / upper[i, i]
    return solution
