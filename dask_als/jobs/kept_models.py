"""The models that a schedule keeps, and the served one, which is a copy of the newest.

::

    OUTPUT/
      model/            the served model, replaced in one step
      model-000001/     kept models by number, the newest last
      model-000002/
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

from dask_als.core import checksums, outputs, ownership, storage
from dask_als.core.ownership import MODEL, STEP_NOTE_NAME
from dask_als.model import manifest as model_manifest

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
        if storage.exists(_manifest(self.served)) and (
            newest is None or _content_of(newest) != _content_of(self.served)
        ):
            copy_model(self.served, self.next_path())

    def serve(self, path: str) -> None:
        """Replace the served model by a copy of a kept one, in one step."""
        copy_model(path, self.served)

    def prune(self, keep: int) -> None:
        """Remove all but the newest models.

        Raises
        ------
        InputError
            If a directory holds files that dask-als did not make.
        """
        for path in self.paths()[:-keep]:
            outputs.remove(path, MODEL)


def copy_model(path: str, out: str) -> None:
    """Copy a model directory; an existing model at `out` is replaced in one step.

    Raises
    ------
    InputError
        If `path` is not a model, or `out` holds something else.
    """
    names = [name for name in ownership.listed_files(path, MODEL) if name != STEP_NOTE_NAME]
    with outputs.staged_directory(out, MODEL, overwrite=True, inputs=[path]) as staging:
        for name in names:
            parent = storage.join(staging, name).rpartition("/")[0]
            storage.make_directory(parent)
            with (
                storage.opened(storage.join(path, name)) as read,
                storage.opened(storage.join(staging, name), "wb") as written,
            ):
                shutil.copyfileobj(read, written, _BYTES_AT_ONCE)


def _match(path: str) -> re.Match[str] | None:
    return _NAME.fullmatch(path.rstrip("/").rsplit("/", 1)[-1])


def _manifest(path: str) -> str:
    return storage.join(path, model_manifest.MANIFEST)


def _content_of(path: str) -> str:
    return checksums.sha256(_manifest(path))
