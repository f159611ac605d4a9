"""Dense solutions of single rows with weights, or with factors >= 0; imports nothing of ours."""

import numpy as np


def weighted_row(y, rows, weights, own, bias_ridge, factor_ridge):
    """Return (bias, factors, squared error) of a row by equations written down anew.

    Parameters
    ----------
    y : the ratings without mean and fixed biases
    rows : the factors of the rated rows
    own : the row's old factors
    """
    total = float(np.sum(weights * (y - rows @ own)))
    bias = total / (float(np.sum(weights)) + bias_ridge)
    # Ridge regression as a least-squares problem of its own: more rows, no normal equations.
    root = np.sqrt(weights)
    left = np.concatenate([rows * root[:, None], np.sqrt(factor_ridge) * np.eye(rows.shape[1])])
    right = np.concatenate([(y - bias) * root, np.zeros(rows.shape[1])])
    factors = np.linalg.lstsq(left, right, rcond=None)[0]
    return bias, factors, float(np.sum(weights * (y - bias - rows @ factors) ** 2))


def system_of_row(y, rows, weights, bias, factor_ridge):
    """Return matrix and right-hand side of the normal equations of a row's factors."""
    matrix = (rows * weights[:, None]).T @ rows + factor_ridge * np.eye(rows.shape[1])
    return matrix, rows.T @ (weights * (y - bias))


def violation(matrix, right, u):
    """Return how far u is from the conditions of Karush, Kuhn and Tucker, relative to `right`."""
    gradient = matrix @ u - right
    scale = max(np.abs(right).max(initial=0), np.finfo(float).tiny)
    below = max(0.0, -(gradient / scale).min(initial=0))
    of_free = np.abs(gradient[u > 0] / scale).max(initial=0)
    return max(below, of_free, 0.0 if (u >= 0).all() else np.inf)
