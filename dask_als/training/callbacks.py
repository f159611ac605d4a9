"""The event at the end of an epoch, and the callbacks that receive it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import MODEL
from dask_als.model.manifest import ModelManifest


@dataclass(frozen=True)
class TrainedEpoch:
    """The event at the end of an epoch: the figures, and a method that saves the model.

    Attributes
    ----------
    figures : EpochFigures
    history : tuple of EpochFigures
        The figures of all epochs so far, including this one.
    """

    figures: EpochFigures
    history: tuple[EpochFigures, ...]
    _write: Callable[[str], ModelManifest] = field(repr=False)

    def save(self, directory: str) -> ModelManifest:
        """Write the model of this epoch; with gibbs, the sample it drew. Workers write the parts.

        Raises
        ------
        InputError
            If `directory` already exists.
        """
        with staged_directory(directory, MODEL, overwrite=False) as staging:
            return self._write(staging)


Callback = Callable[[TrainedEpoch], object]
"""Called after each epoch; a true return value ends training."""


def callback_for_figures(receive: Callable[[EpochFigures], object]) -> Callback:
    """Return a callback that passes only the figures on, and never ends training."""

    def callback(epoch: TrainedEpoch) -> None:
        receive(epoch.figures)

    return callback
