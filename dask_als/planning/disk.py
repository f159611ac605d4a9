"""Estimate the disk space that a training needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dask_als.core.side import SIDES
from dask_als.data.dataset import Dataset
from dask_als.planning import reduction
from dask_als.planning.sizes import factors_bytes
from dask_als.settings.training import CheckpointPolicy, TrainSettings

# A model's files hold ids and counts beside the factors, which compress little.
_WRITTEN_BYTES_A_ROW = 4
_COMPRESSED = 0.93


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes on disk, besides the dataset.

    Attributes
    ----------
    model : int
        The model that is written at the end.
    checkpoints : int
        Space for the newest checkpoints, as many as are kept by default, and the samples of gibbs,
        reduced or all. Without --checkpoint they are removed at the end.
    """

    model: int
    checkpoints: int


def disk_bytes(dataset: Dataset, settings: TrainSettings) -> Disk:
    """Estimate the disk space of model, checkpoints and samples."""
    n_rows = sum(dataset.table(side).n_rows for side in SIDES)
    ids = n_rows * _WRITTEN_BYTES_A_ROW
    state = int(_COMPRESSED * factors_bytes(n_rows, settings))
    # The newest is written before the oldest is removed.
    checkpoints = (CheckpointPolicy().keep + 1) * (state + ids)
    if settings.method != "gibbs":
        return Disk(model=state + ids, checkpoints=checkpoints)
    if settings.reduced_rank is None:
        samples = settings.samples * factors_bytes(n_rows, settings)
        return Disk(model=settings.samples * state + ids, checkpoints=checkpoints + samples)
    compact = factors_bytes(n_rows, replace(settings, rank=settings.reduced_rank))
    samples = reduction.disk_bytes(n_rows, settings)
    return Disk(model=int(_COMPRESSED * compact) + ids, checkpoints=checkpoints + samples)
