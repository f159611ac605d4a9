"""Writes row priors into a checkpoint: workers write the rows of their partitions."""

from __future__ import annotations

from typing import Any

from dask_als.core.side import Side
from dask_als.core.task_keys import TaskKey, TaskKind
from dask_als.model.row_prior_files import RowPriorFiles, What, write_rows
from dask_als.solvers.row_prior import RowPrior
from dask_als.training.task_graph import Epoch, TaskGraph


def write_row_priors(graph: TaskGraph, epoch: Epoch, checkpoint: str) -> dict[Side, RowPriorFiles]:
    """Write the row priors of an epoch; return their checksums by side with attributes."""
    gather = graph.executor.gather
    return {
        side: RowPriorFiles(
            means=tuple(gather(_write(graph, epoch, checkpoint, side, "means"))),
            weights=tuple(gather(_write(graph, epoch, checkpoint, side, "weights")))
            if side in graph.implicit
            else (),
            file_weights=tuple(gather(_write_file_weights(graph, epoch, checkpoint, side)))
            if side in graph.attribute_files
            else (),
        )
        for side in epoch.row_priors
    }


def _write(graph: TaskGraph, epoch: Epoch, checkpoint: str, side: Side, what: What) -> list[Any]:
    kind = TaskKind.WRITE_MEANS if what == "means" else TaskKind.WRITE_WEIGHTS
    rows_of = side if what == "means" else side.other
    return [
        graph.executor.submit(
            _write_part,
            checkpoint,
            side,
            what,
            number,
            partition.rows,
            epoch.row_priors[side][graph.home(rows_of, number)],
            key=str(TaskKey(kind, side, number=number)),
            worker=graph.worker(rows_of, number),
        )
        for number, partition in enumerate(graph.dataset.table(rows_of).partitions)
    ]


def _write_file_weights(graph: TaskGraph, epoch: Epoch, checkpoint: str, side: Side) -> list[Any]:
    number = len(graph.dataset.table(side.other).partitions)
    return [
        graph.executor.submit(
            _write_weights_of_file,
            checkpoint,
            side,
            epoch.row_priors[side][0],
            key=str(TaskKey(TaskKind.WRITE_WEIGHTS, side, number=number)),
        )
    ]


def _write_part(
    checkpoint: str, side: Side, what: What, number: int, rows: range, prior: RowPrior
) -> int:
    values = prior.means if what == "means" else prior.weights
    return write_rows(checkpoint, side, what, number, values[rows.start : rows.stop])


def _write_weights_of_file(checkpoint: str, side: Side, prior: RowPrior) -> int:
    return write_rows(checkpoint, side, "file-weights", 0, prior.weights[prior.file_columns])
