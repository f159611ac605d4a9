"""Biased matrix factorization by alternating least squares, as a distributed job on Dask."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dask_als.core.home import ensure_home
from dask_als.errors import DaskALSError, InputError, JobError
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import StopSettings, TrainSettings

if TYPE_CHECKING:
    from dask_als.estimator import ALS
    from dask_als.model.model import ALSModel

__all__ = [
    "ALS",
    "ALSModel",
    "Columns",
    "DaskALSError",
    "InputError",
    "JobError",
    "PrepareSettings",
    "StopSettings",
    "TrainSettings",
]
__version__ = "0.2.0"

ensure_home()

_LOADED_WHEN_USED = {"ALS": "dask_als.estimator", "ALSModel": "dask_als.model.model"}


def __getattr__(name: str) -> Any:
    """Import what needs Dask and numba when it is first used, so that --help need not wait."""
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LOADED_WHEN_USED[name]), name)
