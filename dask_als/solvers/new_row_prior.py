"""The prior of rows that a model of samples was not trained on; see `new_rows`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NewRowPrior:
    """The prior of bias and factors of a row without ratings.

    Attributes
    ----------
    mean : ndarray of float64, shape (rank + 1,)
        The bias is first.
    root : ndarray of float64, shape (rank + 1, rank + 1)
        The covariance is root rootᵀ.
    """

    mean: np.ndarray
    root: np.ndarray
