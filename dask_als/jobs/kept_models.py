"""The models that a schedule keeps, and the served one, which is a copy of the newest.

::

    OUTPUT/
      model/            the served model, replaced in one step
        ratings/        its dataset: that of the job grows before the next model is served
      model-000001/     kept models by number, the newest last
      model-000002/
"""

from __future__ import annotations

import re
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass

from dask_als.core import outputs, ownership, storage
from dask_als.core.ownership import MODEL, STEP_NOTE_NAME
from dask_als.data.dataset import Dataset
from dask_als.model import manifest as model_manifest
from dask_als.model.manifest import read_manifest
from dask_als.model.training_data import OWN_DATASET, copy_dataset

_NAME = re.compile(r"model-([0-9]{6,})")
_BYTES_AT_ONCE = 16 << 20


@dataclass(frozen=True)
class KeptModels:
    """The kept models in the output of a job.

    Attributes
    ----------
    output : str
        The output directory of the job.
    served : str
        The directory of the served model.
    """

    output: str
    served: str

    def paths(self) -> list[str]:
        """Return the directories of the complete kept models, the newest last."""
        found = storage.list_directory(self.output)
        numbered = sorted((int(match[1]), path) for path in found if (match := _match(path)))
        return [path for _, path in numbered if storage.exists(_manifest(path))]

    def newest(self) -> str | None:
        """Return the newest kept model; None if there is none."""
        return next(reversed(self.paths()), None)

    def next_path(self) -> str:
        """Return the path for the next model."""
        newest = self.newest()
        found = None if newest is None else _match(newest)
        number = 1 if found is None else int(found[1]) + 1
        return storage.join(self.output, f"model-{number:06d}")

    def adopt_served(self) -> None:
        """Keep a copy of the served model, unless it is a copy of the newest or does not exist."""
        newest = self.newest()
        if storage.exists(_manifest(self.served)) and (newest is None or not self.serves(newest)):
            with _replaced(self.next_path(), self.served) as copy:
                _copy_model(self.served, copy)

    def serves(self, path: str) -> bool:
        """Return whether the served model is a copy of a kept one."""
        is_there = storage.exists(_manifest(self.served))
        return is_there and read_manifest(self.served) == read_manifest(path)

    def serve(self, path: str, dataset: Dataset) -> None:
        """Replace the served model by a copy of a kept one and of its dataset, in one step."""
        with _replaced(self.served, path) as copy:
            _copy_model(path, copy)
            ratings = storage.join(copy, OWN_DATASET)
            storage.make_directory(ratings)
            copy_dataset(dataset, ratings)

    def prune(self, keep: int) -> None:
        """Remove all but the newest models.

        Raises
        ------
        InputError
            If a directory holds files that dask-als did not make.
        """
        for path in self.paths()[:-keep]:
            outputs.remove(path, MODEL)


def _replaced(path: str, source: str) -> AbstractContextManager[str]:
    return outputs.staged_directory(path, MODEL, overwrite=True, inputs=[source])


def _copy_model(path: str, copy: str) -> None:
    """Copy a model into an empty directory, without a dataset."""
    for name in ownership.listed_files(path, MODEL):
        if name == STEP_NOTE_NAME or name.startswith(f"{OWN_DATASET}/"):
            continue
        written_path = storage.join(copy, name)
        storage.make_directory(written_path.rpartition("/")[0])
        with (
            storage.opened(storage.join(path, name)) as read,
            storage.opened(written_path, "wb") as written,
        ):
            shutil.copyfileobj(read, written, _BYTES_AT_ONCE)


def _match(path: str) -> re.Match[str] | None:
    return _NAME.fullmatch(path.rstrip("/").rsplit("/", 1)[-1])


def _manifest(path: str) -> str:
    return storage.join(path, model_manifest.MANIFEST)
