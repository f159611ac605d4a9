"""Solves single rows with the factors of a model fixed, with the kernel of training."""

from __future__ import annotations

import numpy as np

from dask_als.core.blocks import Block, Factors
from dask_als.core.side import Side
from dask_als.model.manifest import ModelManifest
from dask_als.model.rows import ModelRows
from dask_als.solvers.base import HalfEpoch, RowMethod, SolvedSide
from dask_als.solvers.choice import fold_in_method_of
from dask_als.solvers.new_row_prior import NewRowPrior
from dask_als.solvers.new_rows import NewRows
from dask_als.solvers.objective import NO_SUMS


def priors_of(rows: dict[Side, ModelRows]) -> dict[Side, NewRowPrior]:
    """Return the priors of new rows that a model has: of both sides, or of none."""
    return {side: own.new_rows for side, own in rows.items() if own.new_rows is not None}


def fold_in_method(manifest: ModelManifest, priors: dict[Side, NewRowPrior]) -> RowMethod:
    """Return the method that solves rows for which a model was not trained."""
    if priors and manifest.residual_precision is not None:
        return NewRows(priors, manifest.residual_precision, manifest.global_mean)
    return fold_in_method_of(manifest.settings, manifest.global_mean)


class RowSolver:
    """Solves rows of one side while the other side of a model is fixed.

    Parameters
    ----------
    manifest : ModelManifest
    rows : dict of Side to ModelRows
        Both sides of the model.
    """

    def __init__(self, manifest: ModelManifest, rows: dict[Side, ModelRows]) -> None:
        self._epochs = manifest.settings.epochs
        self._method = fold_in_method(manifest, priors_of(rows))
        self._rows = rows
        self._fixed_sides: dict[Side, SolvedSide] = {}

    def solve(
        self,
        side: Side,
        rated: np.ndarray,
        ratings: np.ndarray,
        own: Factors,
        weights: np.ndarray | None = None,
    ) -> Factors:
        """Solve one row.

        Parameters
        ----------
        side : Side
            The side of the row.
        rated : ndarray of int32, shape (n_ratings,)
            Rows of the fixed side, ascending.
        ratings : ndarray of float32, shape (n_ratings,)
        own : Factors
            The row's previous state; its bias is solved with its old factors.
        weights : ndarray of float32, shape (n_ratings,), optional
        """
        indptr = np.array([0, len(rated)], dtype=np.int64)
        block = Block(range(1), indptr, rated, ratings, weights)
        step = HalfEpoch(side, self._epochs)
        fixed = self._fixed_side(side.other)
        return self._method.solve_part(step, block, SolvedSide(own, NO_SUMS, 0.0), fixed).solution

    def _fixed_side(self, side: Side) -> SolvedSide:
        """Return a side with the sums that all its rows share; they are computed once."""
        if side not in self._fixed_sides:
            rows = self._rows[side]
            part = self._method.start_part(rows.state, rows.counts > 0)
            step = HalfEpoch(side, self._epochs)
            self._fixed_sides[side] = self._method.join_parts(step, [part])
        return self._fixed_sides[side]
