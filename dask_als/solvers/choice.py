"""Choose the method that the settings ask for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dask_als.kernels.nonnegative import extra_bytes
from dask_als.kernels.workspace import Sizes
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import Method
from dask_als.solvers.gibbs import Gibbs
from dask_als.solvers.implicit import ImplicitLeastSquares
from dask_als.solvers.least_squares import LeastSquares
from dask_als.solvers.reference import check_reference


def method_of(settings: TrainSettings, mean: float) -> Method:
    """Return the method that the settings ask for.

    Parameters
    ----------
    settings : TrainSettings
    mean : float
        The global mean, which is subtracted from the ratings.
    """
    check_reference(settings)
    if settings.feedback == "implicit":
        return ImplicitLeastSquares(settings)
    return Gibbs(settings, mean) if settings.method == "gibbs" else LeastSquares(settings, mean)


def kernel_bytes(settings: TrainSettings) -> int:
    """Return the bytes that the kernel allocates in a call to solve rows."""
    dtype = np.dtype(settings.dtype)
    sizes = Sizes.of(settings.rank, dtype)  # type: ignore[no-untyped-call]
    if settings.method == "gibbs" or settings.feedback == "implicit" or settings.nonnegative:
        sizes = sizes.primal_only()
    extra = extra_bytes(settings.rank) if settings.nonnegative else 0  # type: ignore[no-untyped-call]
    return int(sizes.buffer_bytes(dtype) + extra)


def fold_in_method_of(settings: TrainSettings, mean: float) -> Method:
    """Return the method that solves rows which a model was not trained on."""
    # A model of samples stores their factors one after the other, divided by the root of their
    # number. So F Fᵀ is the mean over the samples, and least squares solves a new row.
    return method_of(replace(settings, method="als"), mean)
