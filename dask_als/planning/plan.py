"""Estimate what a training needs before it runs: memory of a worker, disk, tasks and time.

The estimate follows from a dataset's manifest, the settings and the shape of a cluster. It reads no
ratings. Only the kernel runs, on a small synthetic block, to measure its speed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dask_als.core.executor import Shape
from dask_als.core.side import SIDES
from dask_als.data.dataset import Dataset
from dask_als.planning.calibration import Speed
from dask_als.planning.disk import Disk, disk_bytes
from dask_als.planning.duration import (
    best_partitions,
    epoch_seconds,
    tasks_per_epoch,
    training_seconds,
)
from dask_als.planning.memory import Memory, fits_limit, memory_of_a_worker
from dask_als.planning.sizes import n_partitions
from dask_als.settings.training import StopSettings, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The estimated needs of a training.

    Attributes
    ----------
    shape : Shape
        The size of the cluster.
    memory : Memory
    disk : Disk
    partitions : dict of str to int
        The dataset's number of partitions, by side.
    best_partitions : int
        The best number of partitions of each side, for this job and cluster.
    tasks_per_epoch : int
    epoch_seconds : float
        Time of an epoch, without writing samples.
    training_seconds : float
        Time of all epochs, and of writing samples and model.
    fits : bool
        Whether the workers' memory limit is high enough.
    """

    shape: Shape
    memory: Memory
    disk: Disk
    partitions: dict[str, int]
    best_partitions: int
    tasks_per_epoch: int
    epoch_seconds: float
    training_seconds: float
    fits: bool

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        value = asdict(self)
        value["memory"]["peak"] = self.memory.peak
        return value


def plan(
    dataset: Dataset,
    settings: TrainSettings,
    shape: Shape,
    speed: Speed,
    *,
    stopping: StopSettings = StopSettings(),
) -> Plan:
    """Estimate what a training needs.

    Parameters
    ----------
    dataset : Dataset
    settings : TrainSettings
    shape : Shape
        The size of the cluster.
    speed : Speed
        The speed of a thread, see `measured_speed`.
    stopping : StopSettings, optional
        When the training stops before its last epoch.
    """
    memory = memory_of_a_worker(dataset, settings, shape, stopping=stopping)
    return Plan(
        shape=shape,
        memory=memory,
        disk=disk_bytes(dataset, settings),
        partitions={side.name: n_partitions(dataset, side) for side in SIDES},
        best_partitions=best_partitions(dataset, settings, shape, speed),
        tasks_per_epoch=tasks_per_epoch(dataset, settings, shape),
        epoch_seconds=epoch_seconds(dataset, settings, shape, speed),
        training_seconds=training_seconds(dataset, settings, shape, speed),
        fits=fits_limit(memory, shape),
    )
