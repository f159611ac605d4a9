"""Estimate the disk space that a training needs."""

from __future__ import annotations

from dataclasses import dataclass

from dask_als.core.side import SIDES
from dask_als.data.dataset import Dataset
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
        Space for the newest checkpoints, as many as are kept by default, and all samples of gibbs.
        Without --checkpoint they are removed at the end.
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
    samples = settings.n_kept if settings.method == "gibbs" else 0
    return Disk(
        model=settings.n_kept * state + ids,
        checkpoints=checkpoints + samples * factors_bytes(n_rows, settings),
    )
