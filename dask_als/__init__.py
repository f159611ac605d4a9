"""Biased matrix factorization by alternating least squares, as a distributed job on Dask."""

from dask_als.errors import DaskALSError, InputError, JobError
from dask_als.estimator import ALS
from dask_als.model import ALSModel
from dask_als.settings import Columns, PrepareSettings, TrainSettings

__all__ = [
    "ALS",
    "ALSModel",
    "Columns",
    "DaskALSError",
    "InputError",
    "JobError",
    "PrepareSettings",
    "TrainSettings",
]
__version__ = "0.1.0"
