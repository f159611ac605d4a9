"""Writes row priors into a checkpoint: workers write the rows of their partitions."""

from __future__ import annotations

from dask_als.core.side import Side
from dask_als.core.task_keys import TaskKey, TaskKind
from dask_als.model.row_prior_files import RowPriorFiles, What, write_rows
from dask_als.solvers.row_prior import RowPrior
from dask_als.training.task_graph import Epoch, TaskGraph


def write_row_priors(graph: TaskGraph, epoch: Epoch, checkpoint: str) -> dict[Side, RowPriorFiles]:
    """Write the row priors of an epoch; return their checksums by side with attributes."""
    return {
        side: RowPriorFiles(
            means=_write(graph, epoch, checkpoint, side, "means"),
            weights=_write(graph, epoch, checkpoint, side, "weights"),
        )
        for side in epoch.row_priors
    }


def _write(
    graph: TaskGraph, epoch: Epoch, checkpoint: str, side: Side, what: What
) -> tuple[int, ...]:
    kind = TaskKind.WRITE_MEANS if what == "means" else TaskKind.WRITE_WEIGHTS
    rows_of = side if what == "means" else side.other
    handles = [
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
    return tuple(graph.executor.gather(handles))


def _write_part(
    checkpoint: str, side: Side, what: What, number: int, rows: range, prior: RowPrior
) -> int:
    values = prior.means if what == "means" else prior.weights
    return write_rows(checkpoint, side, what, number, values[rows.start : rows.stop])
