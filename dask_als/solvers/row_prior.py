"""Row priors: what the attributes of a row say of its factors before its ratings do.

With x the attributes of a row, its factors u have the prior Normal(m + Bᵀx, Lambda⁻¹) instead of
Normal(m, Lambda⁻¹). The attributes are which rows of the other side have ratings of the row (or by
it), divided by the root of their number, so that all x have length 1; `kernels.attributes` has the
products with X, their matrix. The weights B have the prior Normal(0, (ridge Lambda)⁻¹), one row per
attribute. Given the rows they are a ridge regression, and with gibbs a draw from it,

    (XᵀX + ridge I) B = Xᵀ(U - m + E) + √ridge E',

where the rows of E and E' are Normal(0, Lambda⁻¹); without them B is the posterior mean. Every
epoch takes one step of conjugate gradients from the last B, with the diagonal D of the matrix as
the preconditioner, and for each column of B with a length of its own:

    r = Xᵀ(U - m + E - XB) + √ridge E' - ridge B
    p = D⁻¹r,    length = r·p / (|Xp|² + ridge |p|²)
    B += length p,    XB += length Xp

The side with attributes computes Xp, the other side Xᵀ(…), each partition for its own rows; dots
and lengths come from all rows in their order. So partitions and workers do not show in the bits.

Sources: Simm et al. 2017, "Macau: scalable Bayesian factorization with high-dimensional side
information using MCMC"; Rendle, Zhang and Koren 2019, "On the difficulty of evaluating baselines",
for which items a user has rated as attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dask_als.core import random as draws
from dask_als.core.blocks import Block
from dask_als.core.side import ITEMS
from dask_als.kernels.attributes import dots_of_columns, products_with, sums_of_rated
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import HalfEpoch, SolvedSide

# The precision of the weights as a multiple of that of the rows.
RIDGE = 3.0

# Streams of random numbers, one a side; those below are in `gibbs`.
_ROW_STREAM = 6
_WEIGHT_STREAM = 8


@dataclass(frozen=True)
class RowPrior:
    """The prior means of the rows of a side, and what they are made of.

    Attributes
    ----------
    weights : ndarray, shape (n_columns, rank)
        B: a row per attribute, that is per row of the other side.
    means : ndarray, shape (n_rows, rank)
        XB.
    scale : ndarray, shape (n_rows,)
        The value of a row's attributes, 1 / √(number of its ratings); 0 without ratings.
    squares : ndarray, shape (n_columns,)
        The diagonal of XᵀX.
    ridge : float
    """

    weights: np.ndarray
    means: np.ndarray
    scale: np.ndarray
    squares: np.ndarray
    ridge: float = RIDGE

    def __sizeof__(self) -> int:
        arrays = self.weights, self.means, self.scale, self.squares
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True)
class Regression:
    """What the weights are fitted to, besides the rows.

    Attributes
    ----------
    mean : ndarray of float64, shape (rank,)
        m.
    noise_root : ndarray of float64, shape (rank, rank), or None
        A matrix which makes rows with the covariance Lambda⁻¹ of standard normal ones; None takes
        the mean of the weights instead of a draw.
    """

    mean: np.ndarray
    noise_root: np.ndarray | None


class RegressionMethod(Protocol):
    """A method that fits row priors."""

    @property
    def settings(self) -> TrainSettings:
        """The settings of the training."""
        ...

    def regression(self, own: SolvedSide) -> Regression:
        """Return what the weights of a side are fitted to."""
        ...


@dataclass(frozen=True)
class Direction:
    """The direction of a step, of the whole side.

    Attributes
    ----------
    rows : ndarray, shape (n_columns, rank)
        p.
    decrease : ndarray of float64, shape (rank,)
        r·p.
    curvature : ndarray of float64, shape (rank,)
        ridge |p|².
    """

    rows: np.ndarray
    decrease: np.ndarray
    curvature: np.ndarray

    def __sizeof__(self) -> int:
        return self.rows.nbytes


# --- what training starts from ---


def scale_of_rows(block: Block, dtype: str) -> np.ndarray:
    """Return the value of the attributes of a partition's rows."""
    counts = block.counts
    return np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0).astype(dtype)


def squares_of_columns(block: Block, scales: list[np.ndarray]) -> np.ndarray:
    """Return the diagonal of XᵀX for a partition of the other side.

    Parameters
    ----------
    block : Block
        Of the other side.
    scales : list of ndarray
        Of the partitions with attributes, see `scale_of_rows`.
    """
    scale = np.concatenate(scales)
    squares: np.ndarray = sums_of_rated(block.indptr, block.indices, (scale * scale)[:, None])
    return squares[:, 0]


def start_row_prior(
    scales: list[np.ndarray],
    squares: list[np.ndarray],
    means: list[np.ndarray],
    weights: list[np.ndarray],
    rank: int,
) -> RowPrior:
    """Return the prior that training starts from.

    Parameters
    ----------
    scales, squares : list of ndarray
        Of the partitions; see `scale_of_rows` and `squares_of_columns`.
    means, weights : list of ndarray
        Of a checkpoint, by partition; without them they are 0.
    """
    scale, diagonal = np.concatenate(scales), np.concatenate(squares)
    return RowPrior(
        weights=np.concatenate([np.zeros((0, rank), scale.dtype), *weights])
        if weights
        else np.zeros((len(diagonal), rank), scale.dtype),
        means=np.concatenate(means) if means else np.zeros((len(scale), rank), scale.dtype),
        scale=scale,
        squares=diagonal,
    )


# --- a step of conjugate gradients ---


def target_of_rows(
    method: RegressionMethod, step: HalfEpoch, own: SolvedSide, prior: RowPrior
) -> np.ndarray:
    """Return U - m + E - XB times the value of each row's attributes; shape (n_rows, rank)."""
    factors = own.solution.factors
    regression = method.regression(own)
    target: np.ndarray = factors - prior.means
    target -= regression.mean.astype(factors.dtype)
    if regression.noise_root is not None:
        target += _noise(method, step, range(len(factors)), _ROW_STREAM, regression.noise_root)
    target *= prior.scale[:, None]
    return target


def residual_of_columns(
    method: RegressionMethod,
    step: HalfEpoch,
    block: Block,
    own: SolvedSide,
    prior: RowPrior,
    target: np.ndarray,
) -> np.ndarray:
    """Return r for a partition of the other side.

    Parameters
    ----------
    block : Block
        Of the other side.
    own : SolvedSide
        The side with attributes.
    target : ndarray
        See `target_of_rows`.
    """
    its = slice(block.rows.start, block.rows.stop)
    dtype = target.dtype.type
    residual: np.ndarray = sums_of_rated(block.indptr, block.indices, target)
    residual -= dtype(prior.ridge) * prior.weights[its]
    root = method.regression(own).noise_root
    if root is not None:
        residual += _noise(method, step, block.rows, _WEIGHT_STREAM, np.sqrt(prior.ridge) * root)
    return residual


def direction_of(prior: RowPrior, residuals: list[np.ndarray]) -> Direction:
    """Return the direction of the step from the residuals of all partitions."""
    residual = np.concatenate(residuals)
    rows = residual / (prior.squares + residual.dtype.type(prior.ridge))[:, None]
    return Direction(
        rows,
        decrease=dots_of_columns(residual, rows),
        curvature=prior.ridge * dots_of_columns(rows, rows),
    )


def projection_of_rows(block: Block, prior: RowPrior, direction: Direction) -> np.ndarray:
    """Return Xp for a partition of the side with attributes."""
    projected: np.ndarray = sums_of_rated(block.indptr, block.indices, direction.rows)
    projected *= prior.scale[block.rows.start : block.rows.stop, None]
    return projected


def stepped(prior: RowPrior, direction: Direction, projections: list[np.ndarray]) -> RowPrior:
    """Return the prior after the step, from the projections of all partitions."""
    projected = np.concatenate(projections)
    curvature = dots_of_columns(projected, projected) + direction.curvature
    moves = curvature > 0
    length = np.where(moves, direction.decrease, 0) / np.where(moves, curvature, 1)
    length = length.astype(projected.dtype)
    return replace(
        prior,
        weights=prior.weights + length * direction.rows,
        means=prior.means + length * projected,
    )


def step_alone(
    method: RegressionMethod,
    step: HalfEpoch,
    blocks: list[Block],
    own: SolvedSide,
    prior: RowPrior,
) -> RowPrior:
    """Take a step where both sides are one partition each; blocks: with attributes, the other."""
    with_attributes, other = blocks
    target = target_of_rows(method, step, own, prior)
    residual = residual_of_columns(method, step, other, own, prior, target)
    direction = direction_of(prior, [residual])
    return stepped(prior, direction, [projection_of_rows(with_attributes, prior, direction)])


def _noise(
    method: RegressionMethod, step: HalfEpoch, rows: range, stream: int, root: np.ndarray
) -> np.ndarray:
    """Draw a vector for each row."""
    settings = method.settings
    normal = draws.standard_normal(
        rows,
        len(root),
        seed=settings.seed,
        stream=stream + int(step.side is ITEMS),
        step=step.epoch,
        dtype=settings.dtype,
    )
    return products_with(normal, root)
