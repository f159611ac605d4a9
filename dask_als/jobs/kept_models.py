"""The models that a schedule keeps, and the served one, which is a copy of the newest.

::

    OUTPUT/
      model/              the served model, replaced in one step
        ratings/          its dataset: that of the job grows before the next model is served
      model-000001/       kept models by number, the newest last
      model-000002/
      kept-models.json    which of these the schedule made

A model of somebody else with such a name is not in the record: it is neither used nor removed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from dask_als.core import checksums, json_files, outputs, ownership, storage
from dask_als.core.ownership import KEPT_MODELS, MODEL, STEP_NOTE_NAME
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.model import manifest as model_manifest
from dask_als.model.manifest import read_manifest
from dask_als.model.training_data import OWN_DATASET, copy_dataset
from dask_als.settings.training import TrainSettings

_NAME = re.compile(r"model-([0-9]{6,})")
_BYTES_AT_ONCE = 16 << 20


@dataclass(frozen=True)
class _Record:
    """What `kept-models.json` says.

    Attributes
    ----------
    models : dict of str to str
        The SHA-256 of each kept model's manifest, by the name of its directory.
    begun : dict
        The model that is being made: its ``name``, and ``trained_on``, a digest of its dataset and
        settings. After a kill, a model of that name and digest is the schedule's.
    """

    models: dict[str, str] = field(default_factory=dict)
    begun: dict[str, str] = field(default_factory=dict)


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
        return [self._path(name) for name in sorted(self._kept(), key=_number)]

    def newest(self) -> str | None:
        """Return the newest kept model; None if there is none."""
        return next(reversed(self.paths()), None)

    def add(self, fingerprint: str, settings: TrainSettings, make: Callable[[str], None]) -> str:
        """Make the next model, and record that it is the schedule's.

        Parameters
        ----------
        fingerprint : str
            The dataset that the model is trained on.
        settings : TrainSettings
            The settings of the model.
        make : callable
            Makes the model in the directory of the given path, where nothing is.

        Returns
        -------
        str
            The directory of the model.
        """
        kept, name = self._kept(), self._next_name()
        self._write(_Record(kept, {"name": name, "trained_on": _digest_of(fingerprint, settings)}))
        path = self._path(name)
        make(path)
        self._write(_Record({**kept, name: _content_of(path)}))
        return path

    def adopt_served(self) -> None:
        """Keep a copy of the served model, unless it is a copy of the newest or does not exist."""
        newest = self.newest()
        if storage.exists(_manifest(self.served)) and (newest is None or not self.serves(newest)):
            manifest = read_manifest(self.served)
            self.add(
                manifest.dataset["fingerprint"],
                manifest.settings,
                lambda path: self._copy(self.served, path, overwrite=False),
            )

    def serves(self, path: str) -> bool:
        """Return whether the served model is a copy of a kept one."""
        is_there = storage.exists(_manifest(self.served))
        return is_there and read_manifest(self.served) == read_manifest(path)

    def serve(self, path: str, dataset: Dataset) -> None:
        """Replace the served model by a copy of a kept one and of its dataset, in one step."""
        self._copy(path, self.served, overwrite=True, dataset=dataset)

    def prune(self, keep: int) -> None:
        """Remove all but the newest models.

        Raises
        ------
        InputError
            If a directory holds files that dask-als did not make.
        """
        for path in self.paths()[:-keep]:
            outputs.remove(path, MODEL)

    def _copy(
        self, path: str, out: str, *, overwrite: bool, dataset: Dataset | None = None
    ) -> None:
        """Copy a model, and a dataset into it, in one step; perhaps replace a model at `out`."""
        names = [
            name
            for name in ownership.listed_files(path, MODEL)
            if name != STEP_NOTE_NAME and not name.startswith(f"{OWN_DATASET}/")
        ]
        with outputs.staged_directory(out, MODEL, overwrite=overwrite, inputs=[path]) as staging:
            for name in names:
                parent = storage.join(staging, name).rpartition("/")[0]
                storage.make_directory(parent)
                with (
                    storage.opened(storage.join(path, name)) as read,
                    storage.opened(storage.join(staging, name), "wb") as written,
                ):
                    shutil.copyfileobj(read, written, _BYTES_AT_ONCE)
            if dataset is not None:
                ratings = storage.join(staging, OWN_DATASET)
                storage.make_directory(ratings)
                copy_dataset(dataset, ratings)

    def _kept(self) -> dict[str, str]:
        """Return the kept models that are there as they were made."""
        record = self._read()
        kept = {name: sha for name, sha in record.models.items() if self._content(name) == sha}
        name = record.begun.get("name")
        if name is not None and self._trained_on(name) == record.begun.get("trained_on"):
            kept[name] = _content_of(self._path(name))
        return kept

    def _trained_on(self, name: str) -> str | None:
        """Return the digest of a complete model's dataset and settings, else None."""
        with suppress(InputError):
            manifest = read_manifest(self._path(name))
            return _digest_of(manifest.dataset["fingerprint"], manifest.settings)
        return None

    def _content(self, name: str) -> str | None:
        path = self._path(name)
        return _content_of(path) if storage.exists(_manifest(path)) else None

    def _next_name(self) -> str:
        """Return a name after all that are in the output or in the record."""
        there = (
            path.rstrip("/").rsplit("/", 1)[-1] for path in storage.list_directory(self.output)
        )
        names = {*there, *self._read().models}
        numbers = [_number(name) for name in names if _NAME.fullmatch(name)]
        return f"model-{1 + max(numbers, default=0):06d}"

    def _path(self, name: str) -> str:
        return storage.join(self.output, name)

    @property
    def _record_path(self) -> str:
        return storage.join(self.output, "kept-models.json")

    def _read(self) -> _Record:
        if not storage.exists(self._record_path):
            return _Record()
        ownership.check_file(self._record_path, KEPT_MODELS)
        value = json_files.read_json(self._record_path)
        models, begun = value.get("models"), value.get("begun")
        if not isinstance(models, dict) or not isinstance(begun, dict):
            raise InputError(
                f"{self._record_path} is damaged; remove it, and later the models that it named"
            )
        named = {name: sha for name, sha in models.items() if _NAME.fullmatch(name)}
        return _Record(named, begun if _NAME.fullmatch(str(begun.get("name"))) else {})

    def _write(self, record: _Record) -> None:
        outputs.replace_json(self._record_path, KEPT_MODELS, asdict(record))


def _number(name: str) -> int:
    return int(name.removeprefix("model-"))


def _digest_of(fingerprint: str, settings: TrainSettings) -> str:
    return hashlib.sha256(
        json_files.as_json([fingerprint, settings.to_json()]).encode()
    ).hexdigest()


def _manifest(path: str) -> str:
    return storage.join(path, model_manifest.MANIFEST)


def _content_of(path: str) -> str:
    return checksums.sha256(_manifest(path))
