"""Saving a model in memory as a model directory, with a copy of its dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dask_als.core import storage
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import MODEL
from dask_als.core.side import SIDES
from dask_als.core.wording import warn_caller
from dask_als.errors import LeftOutWarning
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.rows import write_model_rows
from dask_als.model.training_data import OWN_DATASET, copy_dataset, reference_to

if TYPE_CHECKING:
    from dask_als.model.in_memory import InMemoryModel


def save_model(model: InMemoryModel, path: str, *, overwrite: bool, ratings: bool) -> None:
    """Write a model directory; see `ALSModel.save`."""
    with staged_directory(path, MODEL, overwrite=overwrite) as staging:
        users, items = (
            write_model_rows(staging, model.manifest.side(side), model.rows(side)) for side in SIDES
        )
        crc32 = model_files.write_history(staging, model.history)
        reference = model.manifest.dataset
        if ratings and model.dataset is not None:
            reference = _copy(model, staging, path)
        elif model.dataset is not None and not model.owns_dataset:
            reference = reference_to(model.dataset, path)
        manifest = replace(
            model.manifest,
            users=users,
            items=items,
            dataset=reference,
            history_crc32=crc32,
            kept=None,
        )
        model_manifest.write_manifest(staging, manifest)
    if ratings and model.dataset is None:
        warn_caller(
            f"{path} is without training ratings and titles, as their dataset is not at "
            f"{model.manifest.dataset['path']}: what needs them is left out",
            LeftOutWarning,
        )


def _copy(model: InMemoryModel, staging: str, path: str) -> dict[str, str]:
    """Copy the dataset into a model directory; return the entry in the manifest."""
    assert model.dataset is not None, "there is one to copy"
    copy = storage.join(staging, OWN_DATASET)
    storage.make_directory(copy)
    copy_dataset(model.dataset, copy)
    own_path = storage.absolute(storage.join(path, OWN_DATASET))
    return {"path": own_path, "fingerprint": model.dataset.fingerprint}
