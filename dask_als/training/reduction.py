"""Samples cut down to one rank while training runs, so that their number does not set the disk.

Each time enough samples wait to fill the working rank, they and the sum over those before them are
cut down to that rank: a reduction. At the end, what is there then is cut down to the model's rank.
When it is done follows from the number of samples alone, so a resumed run does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from dask_als.core.executor import reduce_by_tree
from dask_als.core.side import SIDES, Side
from dask_als.core.task_keys import TaskKey, TaskKind
from dask_als.model import sample_files, state_parts
from dask_als.model.compact import Compact
from dask_als.settings.reduction import Schedule
from dask_als.training import reduction_files, stacks
from dask_als.training.reduction_files import ReducedSide, ReductionManifest
from dask_als.training.stacks import Columns, StackFiles, Step
from dask_als.training.task_graph import TaskGraph


@dataclass(frozen=True)
class Stack:
    """The samples to cut down.

    Attributes
    ----------
    samples : dict of str to int or None
        The CRC-32 of each sample's manifest by the sample's path; None if unknown.
    reduction : tuple of (str, int) or None
        The path of the last reduction and the CRC-32 of its manifest.
    """

    samples: dict[str, int | None]
    reduction: tuple[str, int] | None


@dataclass(frozen=True)
class CompactParts:
    """The parts of a compact model, after workers have written them.

    Attributes
    ----------
    checksums, new_rows : dict of Side to list of int, dict of Side to int
        CRC-32 of the parts, and of the priors of new rows.
    mean_biases : dict of Side to float
    residual_precision : float
    compact : Compact
    """

    checksums: dict[Side, list[int]]
    new_rows: dict[Side, int]
    mean_biases: dict[Side, float]
    residual_precision: float
    compact: Compact


@dataclass(frozen=True)
class Reducer:
    """Cuts samples down.

    Attributes
    ----------
    graph : TaskGraph
    """

    graph: TaskGraph

    def write_reduction(self, stack: Stack, rank: int, directory: str) -> None:
        """Write the sum over a stack of samples, cut down to a working rank."""
        tasks = _Tasks(self.graph, stack, rank)
        dtype = self.graph.settings.dtype
        checksums, moments = tasks.write(
            partial(stacks.write_reduced_part, directory),
            (dtype,),
            lambda side, reduced: tasks.submit(
                stacks.write_moments, directory, side, reduced, key=TaskKey(TaskKind.MOMENTS, side)
            ),
        )
        sums = tasks.sums()
        sides = {
            side: ReducedSide(
                sums.side(side).mean_biases,
                sums.side(side).bias_variance,
                tuple(checksums[side]),
                moments[side],
            )
            for side in SIDES
        }
        users, items = sides.values()
        reduction_files.write_manifest(
            directory, ReductionManifest(users, items, sums.residual_precisions, sums.distance)
        )

    def write_compact(self, stack: Stack, rank: int, directory: str) -> CompactParts:
        """Write the parts of the model that is the mean over a stack of samples."""
        tasks = _Tasks(self.graph, stack, rank)
        sums = tasks.sums()
        n = sums.n_samples
        checksums, new_rows = tasks.write(
            partial(stacks.write_compact_part, directory),
            (self.graph.settings.dtype, n),
            lambda side, reduced: tasks.submit(
                stacks.write_new_row_prior,
                directory,
                side,
                reduced,
                n,
                sums.side(side).bias_variance,
                key=TaskKey(TaskKind.MOMENTS, side),
            ),
        )
        n_pairs = float(np.prod([float(rows) for rows in tasks.step.n_rows.values()]))
        return CompactParts(
            checksums,
            new_rows,
            {side: fmean(sums.side(side).mean_biases) for side in SIDES},
            # The inverse of the mean of the variances.
            1 / fmean(1 / precision for precision in sums.residual_precisions),
            Compact(rank, n, float(sums.distance / n / np.sqrt(n_pairs))),
        )


class _Tasks:
    """The tasks that cut one stack down."""

    def __init__(self, graph: TaskGraph, stack: Stack, rank: int) -> None:
        self._graph = graph
        self._samples = {
            path: sample_files.read_manifest(path, crc32=crc32)
            for path, crc32 in stack.samples.items()
        }
        for path, manifest in self._samples.items():
            checksums = {side: manifest.sides[side].checksums for side in SIDES}
            state_parts.check_partitions(path, graph.dataset, checksums)
        self._reduction = stack.reduction
        self._before = ReductionManifest()
        n_reduced = 0
        if stack.reduction is not None:
            path, crc32 = stack.reduction
            self._before = reduction_files.read_manifest(path, crc32=crc32)
            checksums = {side: self._before.side(side).checksums for side in SIDES}
            state_parts.check_partitions(path, graph.dataset, checksums)
            n_reduced = Schedule(graph.settings).working_rank
        self.step = Step(
            graph.settings,
            Columns(len(self._samples), graph.settings.rank, n_reduced),
            rank,
            {side: graph.dataset.table(side).n_rows for side in SIDES},
        )
        self._files = {side: self._files_of(side) for side in SIDES}
        self._exponents = {side: self._submit_exponents(side) for side in SIDES}
        self._reduced = self._submit_truncation()

    def submit(self, function: Callable[..., Any], *args: Any, key: TaskKey) -> Any:
        """Submit a task."""
        return self._graph.executor.submit(function, *args, key=str(key))

    def sums(self) -> ReductionManifest:
        """Return what reduction.json says of the result, but for checksums."""
        handle = self.submit(
            stacks.figures_of, self._reduced, key=TaskKey(TaskKind.REDUCTION_FIGURES)
        )
        ((distance, variances),) = self._graph.executor.gather([handle])
        users, items = (
            ReducedSide(
                (
                    *self._before.side(side).mean_biases,
                    *(manifest.sides[side].mean_bias for manifest in self._samples.values()),
                ),
                self._before.side(side).bias_variance + variances[side],
            )
            for side in SIDES
        )
        precisions = (manifest.residual_precision for manifest in self._samples.values())
        return ReductionManifest(
            users,
            items,
            (*self._before.residual_precisions, *precisions),
            self._before.distance + distance,
        )

    def write(
        self,
        write_part: Callable[..., int],
        arguments: tuple[Any, ...],
        submit_moments: Callable[[Side, Any], Any],
    ) -> tuple[dict[Side, list[int]], dict[Side, int]]:
        """Write the parts of both sides, and their moments; return the CRC-32 of each file."""
        parts = [
            (
                side,
                self.submit(
                    write_part,
                    files,
                    self._exponents[side],
                    self._reduced,
                    *arguments,
                    key=TaskKey(TaskKind.REDUCE, side, number=files.number),
                ),
            )
            for side in SIDES
            for files in self._files[side]
        ]
        moments = [submit_moments(side, self._reduced) for side in SIDES]
        written = self._graph.executor.gather([*(handle for _, handle in parts), *moments])
        checksums: dict[Side, list[int]] = {side: [] for side in SIDES}
        for (side, _), crc32 in zip(parts, written, strict=False):
            checksums[side].append(crc32)
        return checksums, dict(zip(SIDES, written[len(parts) :], strict=True))

    def _files_of(self, side: Side) -> list[StackFiles]:
        ids = self._graph.dataset.rows_file(side)
        return [
            StackFiles(
                side,
                number,
                partition.rows,
                ids,
                self._reduction and (self._reduction[0], self._before.side(side).checksums[number]),
                tuple(
                    (path, manifest.sides[side].checksums[number])
                    for path, manifest in self._samples.items()
                ),
            )
            for number, partition in enumerate(self._graph.dataset.table(side).partitions)
        ]

    def _submit_exponents(self, side: Side) -> Any:
        maxima = [
            self.submit(
                stacks.maxima_of_part,
                files,
                key=TaskKey(TaskKind.MAXIMA, side, number=files.number),
            )
            for files in self._files[side]
        ]
        return self.submit(stacks.exponents_of_side, maxima, key=TaskKey(TaskKind.EXPONENTS, side))

    def _submit_gram(self, side: Side) -> Any:
        grams = [
            self.submit(
                stacks.gram_of_part,
                files,
                self._exponents[side],
                self.step.n_rows[side],
                key=TaskKey(TaskKind.GRAM, side, number=files.number),
            )
            for files in self._files[side]
        ]
        name = f"sum-of-grams-{side.name}"
        return reduce_by_tree(self._graph.executor, stacks.sum_of_grams, grams, name=name)

    def _submit_truncation(self) -> Any:
        moments = self._reduction and {
            side: (self._reduction[0], self._before.side(side).moments_crc32) for side in SIDES
        }
        return self.submit(
            stacks.reduce_stack,
            self.step,
            [self._submit_gram(side) for side in SIDES],
            [self._exponents[side] for side in SIDES],
            moments,
            key=TaskKey(TaskKind.TRUNCATE),
        )
