"""Writers of models, samples and sums of predictions.

Workers write the parts, then the driver writes the history and the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.side import SIDES, Side, side_named
from dask_als.core.task_keys import TaskKey, TaskKind
from dask_als.data.dataset import Dataset, Partition, RowsFile
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model import sample_files, state_parts
from dask_als.model.manifest import KeptFiles, ModelManifest, ModelSide
from dask_als.model.training_data import with_relative_path
from dask_als.solvers.base import SolvedPart, SolvedSide
from dask_als.training.home_tasks import OfferedSide, side_at, side_without_rows
from dask_als.training.prediction_files import write_predictions
from dask_als.training.reduction import Reducer, Stack
from dask_als.training.task_graph import Epoch, TaskGraph


@dataclass(frozen=True)
class _WrittenParts:
    """The parts of both sides, after workers have written them.

    Attributes
    ----------
    checksums : dict of Side to list of int
        The CRC-32 of each part.
    mean_biases : dict of Side to float
    residual_precision : float or None
    new_rows : dict of Side to int
        Of a compact model, the CRC-32 of the prior of new rows.
    """

    checksums: dict[Side, list[int]]
    mean_biases: dict[Side, float]
    residual_precision: float | None
    new_rows: dict[Side, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelWriter:
    """Writes the results of a task graph.

    Attributes
    ----------
    graph : TaskGraph
    """

    graph: TaskGraph

    def write_model(
        self,
        epoch: Epoch,
        history: Sequence[EpochFigures],
        directory: str,
        kept: KeptFiles | None = None,
    ) -> ModelManifest:
        """Write the model of an epoch.

        Parameters
        ----------
        history : sequence of EpochFigures
            The figures of all epochs up to this one.
        directory : str
            An existing directory.
        kept : KeptFiles, optional
            The other files of a checkpoint; they must already be written.
        """
        ids = {side: self.graph.dataset.rows_file(side) for side in SIDES}
        written = self._write_parts(epoch, partial(_write_model_part, directory, ids))
        manifest = self._manifest(epoch.figures, written, kept=kept)
        return _completed(directory, manifest, history)

    def write_sample(self, epoch: Epoch, directory: str) -> None:
        """Write the sample that an epoch drew."""
        written = self._write_parts(epoch, partial(_write_sample_part, directory))
        assert written.residual_precision is not None, "a method that samples draws it"
        sides = {
            side: sample_files.SampleSide(written.mean_biases[side], tuple(written.checksums[side]))
            for side in SIDES
        }
        manifest = sample_files.SampleManifest(sides, written.residual_precision)
        sample_files.write_manifest(directory, manifest)

    def write_average(
        self,
        samples: Mapping[str, int | None],
        figures: EpochFigures,
        history: Sequence[EpochFigures],
        directory: str,
    ) -> ModelManifest:
        """Write the average of samples as a model.

        Parameters
        ----------
        samples : mapping of str to int or None
            The CRC-32 of each sample's manifest by the sample's path; None if unknown.
        figures : EpochFigures
            The figures of the last sample's epoch.

        Raises
        ------
        InputError
            If the samples and the dataset have different partitions.
        """
        manifests = {
            sample: sample_files.read_manifest(sample, crc32=crc32)
            for sample, crc32 in samples.items()
        }
        for sample, manifest in manifests.items():
            checksums = {side: manifest.sides[side].checksums for side in SIDES}
            state_parts.check_partitions(sample, self.graph.dataset, checksums)
        handles = {
            side: [
                self.graph.executor.submit(
                    _write_average_part,
                    directory,
                    self.graph.dataset.rows_file(side),
                    side,
                    number,
                    partition,
                    [
                        (path, manifest.sides[side].checksums[number])
                        for path, manifest in manifests.items()
                    ],
                    key=str(TaskKey(TaskKind.WRITE_AVERAGE, side, number=number)),
                )
                for number, partition in enumerate(self._partitions(side))
            ]
            for side in SIDES
        }
        written = _WrittenParts(
            self._gather(handles),
            {
                side: fmean(manifest.sides[side].mean_bias for manifest in manifests.values())
                for side in SIDES
            },
            # The inverse of the mean of the variances.
            1 / fmean(1 / manifest.residual_precision for manifest in manifests.values()),
        )
        manifest_of_average = self._manifest(figures, written, samples=len(samples))
        return _completed(directory, manifest_of_average, history)

    def write_compact(
        self,
        stack: Stack,
        rank: int,
        figures: EpochFigures,
        history: Sequence[EpochFigures],
        directory: str,
    ) -> ModelManifest:
        """Write the mean over samples as a model of one rank.

        Parameters
        ----------
        stack : Stack
            The samples.
        rank : int
        figures : EpochFigures
            The figures of the last sample's epoch.

        Raises
        ------
        InputError
            If the samples and the dataset have different partitions.
        """
        parts = Reducer(self.graph).write_compact(stack, rank, directory)
        written = _WrittenParts(
            parts.checksums, parts.mean_biases, parts.residual_precision, parts.new_rows
        )
        manifest = replace(self._manifest(figures, written), compact=parts.compact)
        return _completed(directory, manifest, history)

    def write_predictions(self, epoch: Epoch, directory: str) -> tuple[int, ...]:
        """Write the sums of predictions of held-out ratings.

        Returns
        -------
        tuple of int
            The CRC-32 of each file.
        """
        handles = [
            self.graph.executor.submit(
                write_predictions,
                directory,
                number,
                predicted,
                key=str(TaskKey(TaskKind.WRITE_PREDICTIONS, number=number)),
            )
            for number, predicted in enumerate(epoch.predictions)
        ]
        return tuple(self.graph.executor.gather(handles))

    def _write_parts(self, epoch: Epoch, write_part: Callable[..., int]) -> _WrittenParts:
        submit = self.graph.executor.submit
        handles = {
            side: [
                submit(
                    write_part,
                    side,
                    number,
                    partition,
                    *epoch.sides[side].parts[number],
                    key=str(TaskKey(TaskKind.WRITE, side, number=number)),
                    worker=self.graph.worker(side, number),
                )
                for number, partition in enumerate(self._partitions(side))
            ]
            for side in SIDES
        }
        figures = {
            side: [
                submit(
                    _side_figures,
                    epoch.sides[side].whole,
                    key=str(TaskKey(TaskKind.SIDE_FIGURES, side)),
                )
            ]
            for side in SIDES
        }
        checksums = self._gather(handles)
        by_side = {side: values for side, (values,) in self._gather(figures).items()}
        # The side solved last drew the residual precision of this epoch.
        _, residual_precision = by_side[side_named(self.graph.settings.first).other]
        mean_biases = {side: mean_bias for side, (mean_bias, _) in by_side.items()}
        return _WrittenParts(checksums, mean_biases, residual_precision)

    def _gather(self, handles: dict[Side, list[Any]]) -> dict[Side, list[Any]]:
        """Return the results of the tasks of both sides."""
        results = iter(self.graph.executor.gather([*handles[SIDES[0]], *handles[SIDES[1]]]))
        return {side: [next(results) for _ in handles[side]] for side in SIDES}

    def _partitions(self, side: Side) -> Sequence[Partition]:
        return self.graph.dataset.table(side).partitions

    def _manifest(
        self,
        figures: EpochFigures,
        written: _WrittenParts,
        *,
        samples: int = 1,
        kept: KeptFiles | None = None,
    ) -> ModelManifest:
        dataset = self.graph.dataset
        users, items = (
            replace(
                _model_side(dataset, side, written.mean_biases[side]).written(
                    written.checksums[side]
                ),
                new_rows_crc32=written.new_rows.get(side),
            )
            for side in SIDES
        )
        return ModelManifest(
            settings=self.graph.settings,
            global_mean=self.graph.mean,
            rating_min=dataset.rating_min,
            rating_max=dataset.rating_max,
            dataset={"path": dataset.path, "fingerprint": dataset.fingerprint},
            users=users,
            items=items,
            figures=figures,
            samples=samples,
            residual_precision=written.residual_precision,
            kept=kept,
        )


def _completed(
    directory: str, manifest: ModelManifest, history: Sequence[EpochFigures]
) -> ModelManifest:
    """Write the history and then the manifest, which completes a model."""
    history_crc32 = model_files.write_history(directory, list(history))
    # Where the model is written is beside where it will be, so the relative path holds there, too.
    reference = with_relative_path(manifest.dataset, directory)
    manifest = replace(manifest, dataset=reference, history_crc32=history_crc32)
    model_manifest.write_manifest(directory, manifest)
    return manifest


def _model_side(dataset: Dataset, side: Side, mean_bias: float) -> ModelSide:
    table = dataset.table(side)
    partitions = tuple(Partition(part.start, part.stop, part.ratings) for part in table.partitions)
    return ModelSide(table.digest, mean_bias, partitions)


def _side_figures(whole: SolvedSide | OfferedSide) -> tuple[float, float | None]:
    side = side_without_rows(whole)
    return side.mean_bias, side.residual_precision


def _write_model_part(
    model: str,
    ids: dict[Side, RowsFile],
    side: Side,
    number: int,
    partition: Partition,
    *solved: SolvedPart | SolvedSide | OfferedSide,
) -> int:
    factors = side_at(partition.rows, *solved).rows(partition.rows)
    return model_files.write_dataset_part(model, ids[side], side, number, partition.rows, factors)


def _write_sample_part(
    sample: str,
    side: Side,
    number: int,
    partition: Partition,
    *solved: SolvedPart | SolvedSide | OfferedSide,
) -> int:
    factors = side_at(partition.rows, *solved).rows(partition.rows)
    return state_parts.write_part(sample, side, number, factors)


def _write_average_part(
    model: str,
    ids: RowsFile,
    side: Side,
    number: int,
    partition: Partition,
    samples: list[tuple[str, int]],
) -> int:
    drawn = [state_parts.read_part(sample, side, number, crc32) for sample, crc32 in samples]
    factors = sample_files.average_of_samples(drawn)
    bias_of_samples = np.stack([sample.bias for sample in drawn], axis=1)
    return model_files.write_dataset_part(
        model, ids, side, number, partition.rows, factors, bias_of_samples
    )
