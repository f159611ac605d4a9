"""The tasks that fit row priors: a step of conjugate gradients before each half-epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_als.cluster.placement import Placement
from dask_als.core.executor import Executor
from dask_als.core.side import SIDES, Side
from dask_als.core.task_keys import TaskKey, TaskKind
from dask_als.data.attributes import AttributesFile
from dask_als.errors import InputError
from dask_als.model.manifest import read_manifest
from dask_als.model.row_prior_files import RowPriorFiles, read_rows
from dask_als.settings.training import TrainSettings
from dask_als.solvers import row_prior
from dask_als.solvers.base import HalfEpoch
from dask_als.solvers.file_attributes import FileAttributes, file_attributes
from dask_als.solvers.row_prior import RegressionMethod


@dataclass(frozen=True)
class RowPriorTasks:
    """Submits what fits the row priors of sides with attributes.

    The handles of a `RowPrior` are one replica for each home, as those of a solved side.

    Attributes
    ----------
    settings : TrainSettings
    implicit : tuple of Side
        The sides with implicit attributes.
    files : dict of Side to AttributesFile
        The attributes from files.
    executor : Executor
    placement : Placement
    blocks : dict of Side to list of handle
        The blocks of both sides.
    """

    settings: TrainSettings
    implicit: tuple[Side, ...]
    files: dict[Side, AttributesFile]
    executor: Executor
    placement: Placement
    blocks: dict[Side, list[Any]]

    def start(self, checkpoint: str | None) -> dict[Side, list[Any]]:
        """Submit the row priors that a segment starts from, by side with attributes."""
        sides = (side for side in SIDES if side in self.implicit or side in self.files)
        return {side: self._start(side, checkpoint) for side in sides}

    def step(
        self, method: RegressionMethod, step: HalfEpoch, own: list[Any], priors: list[Any]
    ) -> list[Any]:
        """Submit a step of conjugate gradients.

        Parameters
        ----------
        step : HalfEpoch
            Of the side with attributes; the one that is solved next.
        own, priors : list of handle
            Replicas of the side with attributes before that, and of its row prior.
        """
        side = step.side
        own_blocks, other_blocks = self.blocks[side], self.blocks[side.other]
        if side not in self.implicit or len(own_blocks) == len(other_blocks) == 1:
            blocks = [own_blocks[0], other_blocks[0]] if side in self.implicit else []
            return self._on_homes(
                TaskKind.ATTRIBUTES,
                step,
                lambda home: (row_prior.step_alone, method, step, blocks, own[home], priors[home]),
            )
        targets = self._on_homes(
            TaskKind.ATTRIBUTES_TARGET,
            step,
            lambda home: (row_prior.target_of_rows, method, step, own[home], priors[home]),
        )
        residuals = self._on_partitions(
            TaskKind.ATTRIBUTES_RESIDUAL,
            step,
            side.other,
            lambda block, home: (
                row_prior.residual_of_columns,
                method,
                step,
                block,
                own[home],
                priors[home],
                targets[home],
            ),
        )
        directions = self._on_homes(
            TaskKind.ATTRIBUTES_DIRECTION,
            step,
            lambda home: (row_prior.direction_of, priors[home], targets[home], residuals),
        )
        projections = self._on_partitions(
            TaskKind.ATTRIBUTES_PROJECTION,
            step,
            side,
            lambda block, home: (
                row_prior.projection_of_rows,
                block,
                priors[home],
                directions[home],
            ),
        )
        return self._on_homes(
            TaskKind.ATTRIBUTES,
            step,
            lambda home: (row_prior.stepped, priors[home], directions[home], projections),
        )

    def _start(self, side: Side, checkpoint: str | None) -> list[Any]:
        step = HalfEpoch(side, 0)
        dtype, rank = self.settings.dtype, self.settings.rank
        scales = self._on_partitions(
            TaskKind.ATTRIBUTES_SCALE,
            step,
            side,
            lambda block, home: (row_prior.scale_of_rows, block, dtype),
        )
        squares: list[Any] = []
        if side in self.implicit:
            squares = self._on_partitions(
                TaskKind.ATTRIBUTES_SQUARES,
                step,
                side.other,
                lambda block, home: (row_prior.squares_of_columns, block, scales),
            )
        from_file = self._submit_from_file(side, scales)
        means: list[Any] = []
        weights: list[Any] = []
        if checkpoint is not None:
            kept = _kept_files(checkpoint, side, side in self.implicit)
            means = self._submit_read(
                TaskKind.READ_MEANS, side, kept.paths(checkpoint, side, "means")
            )
            weights = self._submit_read(
                TaskKind.READ_WEIGHTS,
                side,
                [
                    *kept.paths(checkpoint, side, "weights"),
                    *kept.paths(checkpoint, side, "file-weights"),
                ],
            )
        return self._on_homes(
            TaskKind.ATTRIBUTES,
            step,
            lambda home: (
                row_prior.start_row_prior,
                scales,
                squares,
                means,
                weights,
                rank,
                from_file and from_file[home],
            ),
        )

    def _submit_from_file(self, side: Side, scales: list[Any]) -> list[Any] | None:
        """Submit the attributes of a side from a file, if it has some: a replica on each home."""
        if side not in self.files:
            return None
        return self._on_homes(
            TaskKind.ATTRIBUTES_FILE,
            HalfEpoch(side, 0),
            lambda home: (
                _read_attributes,
                self.files[side],
                scales,
                self.settings.dtype,
                self.settings.method == "als",
            ),
        )

    def _submit_read(
        self, kind: TaskKind, side: Side, files: Sequence[tuple[str, int]]
    ) -> list[Any]:
        return [
            self.executor.submit(
                read_rows, path, crc32, key=str(TaskKey(kind, side, number=number))
            )
            for number, (path, crc32) in enumerate(files)
        ]

    def _on_homes(
        self, kind: TaskKind, step: HalfEpoch, call: Callable[[int], tuple[Any, ...]]
    ) -> list[Any]:
        """Submit a task on each home; `call` returns its function and arguments."""
        return [
            self.executor.submit(*call(home), key=_key(kind, step, home), worker=worker)
            for home, worker in enumerate(self.placement.workers)
        ]

    def _on_partitions(
        self,
        kind: TaskKind,
        step: HalfEpoch,
        side: Side,
        call: Callable[[Any, int], tuple[Any, ...]],
    ) -> list[Any]:
        """Submit a task for each partition of a side, and chunks of the results of each home."""
        blocks = self.blocks[side]
        homes = [self.placement.home(number, len(blocks)) for number in range(len(blocks))]
        parts = [
            self.executor.submit(
                *call(block, home),
                key=_key(kind, step, number),
                worker=self.placement.workers[home],
            )
            for number, (block, home) in enumerate(zip(blocks, homes, strict=True))
        ]
        if self.placement.n_homes == 1:
            return parts
        return [
            self.executor.submit(
                _chunk_of,
                own,
                key=_key(TaskKind.ATTRIBUTES_CHUNK, step, len(blocks) + home),
                worker=self.placement.workers[home],
            )
            if len(own) > 1
            else own[0]
            for home, own in self.placement.by_home(parts)
        ]


def _read_attributes(
    file: AttributesFile, scales: list[np.ndarray], dtype: str, has_intercept: bool
) -> FileAttributes:
    return file_attributes(file.matrix(), scales, dtype, has_intercept)


def _kept_files(checkpoint: str, side: Side, is_implicit: bool) -> RowPriorFiles:
    kept = read_manifest(checkpoint).kept
    files = None if kept is None else kept.row_prior(side)
    if files is None or (is_implicit and not files.weights):
        raise InputError(f"{checkpoint} is damaged: it has no row priors of {side.name}")
    return files


def _chunk_of(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate the rows of consecutive partitions."""
    return np.concatenate(parts)


def _key(kind: TaskKind, step: HalfEpoch, number: int) -> str:
    return str(TaskKey(kind, step.side, step.epoch, number))
