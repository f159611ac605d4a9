"""Solve every row of one side by ridge regression on the other side's fixed factors (plain version)."""

from __future__ import annotations

import numpy as np


def solve_rows_plain(
    indptr,
    indices,
    ratings,
    own_factors,
    fixed_bias,
    fixed_factors,
    *,
    mean,
    bias_ridge,
    factor_ridge,
):
    """Do what `solve_rows` does, one row at a time with plain NumPy."""
    n, rank = own_factors.shape
    bias = np.zeros(n, own_factors.dtype)
    factors = np.zeros_like(own_factors)
    squared_error = np.zeros(n)
    for row in range(n):
        rated = indices[indptr[row] : indptr[row + 1]]
        if len(rated) == 0:
            continue
        fixed = fixed_factors[rated].astype(np.float64)
        y = ratings[indptr[row] : indptr[row + 1]] - mean - fixed_bias[rated].astype(np.float64)
        bias[row] = (y.sum() - fixed.sum(axis=0) @ own_factors[row]) / (len(y) + bias_ridge[row])
        target = y - bias[row]
        normal = fixed.T @ fixed + factor_ridge[row] * np.eye(rank)
        factors[row] = np.linalg.lstsq(normal, fixed.T @ target, rcond=None)[0]
        squared_error[row] = np.sum((target - fixed @ factors[row]) ** 2)
    return bias, factors, squared_error


solve_rows = solve_rows_plain
