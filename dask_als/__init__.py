"""Biased matrix factorization by alternating least squares, as a distributed job on Dask."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dask_als.core.home import ensure_home
from dask_als.errors import (
    DaskALSError,
    DaskALSWarning,
    InputError,
    JobError,
    LeftOutWarning,
    RejectedRowsWarning,
    UnknownIdWarning,
)

if TYPE_CHECKING:
    from dask_als.estimator import ALS
    from dask_als.model.model import ALSModel
    from dask_als.settings.data import Columns, PrepareSettings
    from dask_als.settings.training import StopSettings, TrainSettings

__all__ = [
    "ALS",
    "ALSModel",
    "Columns",
    "DaskALSError",
    "DaskALSWarning",
    "InputError",
    "JobError",
    "LeftOutWarning",
    "PrepareSettings",
    "RejectedRowsWarning",
    "StopSettings",
    "TrainSettings",
    "UnknownIdWarning",
]
__version__ = "0.2.0"

ensure_home()

_LOADED_WHEN_USED = {
    "ALS": "dask_als.estimator",
    "ALSModel": "dask_als.model.model",
    "Columns": "dask_als.settings.data",
    "PrepareSettings": "dask_als.settings.data",
    "StopSettings": "dask_als.settings.training",
    "TrainSettings": "dask_als.settings.training",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: Dask and numba take a second to import."""
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LOADED_WHEN_USED[name]), name)
