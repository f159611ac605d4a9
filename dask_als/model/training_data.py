"""The dataset that a model was trained on: where it is, and what rows have rated."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dask_als.core import checksums, storage
from dask_als.core.blocks import Block
from dask_als.core.limits import is_on_same_storage
from dask_als.core.side import Side
from dask_als.data.block_files import read_block
from dask_als.data.dataset import Dataset, Partition, is_dataset, open_dataset
from dask_als.errors import InputError
from dask_als.model.manifest import ModelManifest, read_manifest
from dask_als.model.top_k import Seen

OWN_DATASET = "ratings"
"""The directory of a model that holds a copy of its dataset."""

_LOG = logging.getLogger(__name__)


@lru_cache(maxsize=4)
def recently_read_block(
    fingerprint: str, path: str, side: Side, number: int, partition: Partition
) -> Block:
    """Read a block; the fingerprint distinguishes datasets at the same path."""
    return read_block(path, side, number, partition)


def dataset_of(manifest: ModelManifest, model: str, path: str | None) -> Dataset | None:
    """Open the dataset that a model was trained on, if it is found.

    It is looked for in the model directory, at the path in the manifest, at the same path relative
    to the model, and beside the model. All of these are followed only on the storage of the model:
    a local one, or the same bucket. So a model from others never makes us connect to anywhere.

    Raises
    ------
    InputError
        If `path` is given and is not that dataset.
    """
    if path is not None:
        dataset = open_dataset(path)
        if dataset.fingerprint == manifest.dataset["fingerprint"]:
            return dataset
        raise InputError(
            f"{model} was not trained on {path}: their fingerprints differ; it was trained on "
            f"{manifest.dataset['path']}"
        )
    for place in _places(manifest, model):
        if not is_on_same_storage(place, model):
            _LOG.warning(
                "%s names a dataset on other storage than its own, %r, which is not opened "
                "unasked; name it with --dataset, or with dataset= in Python",
                model,
                place,
            )
        elif is_dataset(place):
            dataset = open_dataset(place)
            if dataset.fingerprint == manifest.dataset["fingerprint"]:
                return dataset
    return None


def found_dataset(model: str) -> Dataset:
    """Open the dataset that a model directory was trained on.

    Raises
    ------
    InputError
        If there is no model, or its dataset is not found.
    """
    manifest = read_manifest(model)
    dataset = dataset_of(manifest, model, None)
    if dataset is None:
        raise InputError(
            f"{model} was trained on {manifest.dataset['path']}, which is not there or has "
            "changed; name the dataset"
        )
    return dataset


def _places(manifest: ModelManifest, model: str) -> Iterator[str]:
    """Yield the paths where the dataset of a model may be."""
    yield storage.join(model, OWN_DATASET)
    recorded = manifest.dataset["path"]
    yield recorded
    beside = storage.absolute(model).rpartition("/")[0]
    if "relative" in manifest.dataset and is_on_same_storage(recorded, model):
        yield _normalized(beside, manifest.dataset["relative"])
    yield storage.join(beside, recorded.rstrip("/").rpartition("/")[2])


def _normalized(directory: str, relative: str) -> str:
    """Return a path below or beside a directory, without its ``..``."""
    names = relative.split("/")
    while names and names[0] == "..":
        directory, names = directory.rpartition("/")[0], names[1:]
    return storage.join(directory, *(name for name in names if name not in (".", "..")))


def reference_to(dataset: Dataset, model: str) -> dict[str, str]:
    """Return what the manifest of a model says of its dataset.

    Parameters
    ----------
    model : str
        The directory where the model will be, not where it is written.
    """
    reference = {"path": dataset.path, "fingerprint": dataset.fingerprint}
    return with_relative_path(reference, model)


def with_relative_path(reference: dict[str, str], model: str) -> dict[str, str]:
    """Add the path relative to the parent of a model directory, if both are local."""
    path, parent = reference["path"], storage.absolute(model).rpartition("/")[0]
    if not (path.startswith("/") and parent.startswith("/")):
        return reference
    return {**reference, "relative": os.path.relpath(path, parent)}


def copy_dataset(dataset: Dataset, target: str) -> None:
    """Copy a dataset without its rejected rows.

    Raises
    ------
    InputError
        If a file of the dataset is missing or damaged.
    """
    copied = replace(dataset, rejected_crc32=None)
    for path, crc32 in copied.files().items():
        checksums.copy(path, storage.join(target, _inner(path, dataset)), crc32=crc32)
    copied.write_manifest(target)


def packed(dataset: Dataset) -> dict[str, bytes]:
    """Return the files of a dataset by their names, for `unpacked`."""
    with tempfile.TemporaryDirectory(prefix="dask-als-") as folder:
        target = storage.join(folder, OWN_DATASET)
        storage.make_directory(target)
        copy_dataset(dataset, target)
        return {
            os.path.relpath(os.path.join(above, name), target): _content(above, name)
            for above, _, names in os.walk(target)
            for name in names
        }


def _content(above: str, name: str) -> bytes:
    with open(os.path.join(above, name), "rb") as file:
        return file.read()


def unpacked(files: dict[str, bytes], owner: object) -> Dataset:
    """Write the files of a dataset to a temporary directory that lives as long as an object."""
    folder = tempfile.mkdtemp(prefix="dask-als-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    for name, content in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    return open_dataset(folder)


def _inner(path: str, dataset: Dataset) -> str:
    return path[len(dataset.path) :].lstrip("/")


@dataclass(frozen=True)
class RatingsOfRow:
    """The training ratings of a row.

    Attributes
    ----------
    rated : ndarray of int32, shape (n_ratings,)
        Rows of the other side, ascending.
    ratings : ndarray of float32, shape (n_ratings,)
    weights : ndarray of float32, shape (n_ratings,), or None
    """

    rated: np.ndarray
    ratings: np.ndarray
    weights: np.ndarray | None


def ratings_of(dataset: Dataset, side: Side, row: int) -> RatingsOfRow:
    """Return the training ratings of a row."""
    (number,) = _partitions_of(dataset, side, np.array([row]))
    block = _block(dataset, side, int(number))
    first, last = block.indptr[row - block.rows.start : row - block.rows.start + 2]
    weights = None if block.weights is None else block.weights[first:last]
    return RatingsOfRow(block.indices[first:last], block.ratings[first:last], weights)


def seen_by(dataset: Dataset, side: Side, rows: np.ndarray) -> Seen:
    """Return what rows have rated; a row of -1 has rated nothing."""
    numbers = _partitions_of(dataset, side, rows)
    lists: list[np.ndarray] = [np.zeros(0, np.int32)] * len(rows)
    for number in np.unique(numbers[rows >= 0]).tolist():
        block = _block(dataset, side, number)
        for place in np.flatnonzero((numbers == number) & (rows >= 0)).tolist():
            row = int(rows[place]) - block.rows.start
            lists[place] = block.indices[block.indptr[row] : block.indptr[row + 1]]
    indptr = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Seen(indptr, np.concatenate([np.zeros(0, np.int32), *lists]))


def _partitions_of(dataset: Dataset, side: Side, rows: np.ndarray) -> np.ndarray:
    starts = [part.start for part in dataset.table(side).partitions]
    return np.searchsorted(starts, rows, side="right") - 1


def _block(dataset: Dataset, side: Side, number: int) -> Block:
    partition = dataset.table(side).partitions[number]
    return recently_read_block(dataset.fingerprint, dataset.path, side, number, partition)
