"""The dataset that a model was trained on, and the ratings of single rows."""

from __future__ import annotations

import logging
from functools import lru_cache

import numpy as np

from dask_als.core.blocks import Block
from dask_als.core.limits import is_on_same_storage
from dask_als.core.side import Side
from dask_als.data.dataset import Dataset, Partition, is_dataset, open_dataset, read_block
from dask_als.errors import InputError
from dask_als.model.files import ModelManifest

_LOG = logging.getLogger(__name__)


@lru_cache(maxsize=4)
def recently_read_block(
    fingerprint: str, path: str, side: Side, number: int, partition: Partition
) -> Block:
    """Read a block; the fingerprint distinguishes datasets at the same path."""
    return read_block(path, side, number, partition)


def dataset_of(manifest: ModelManifest, model: str, path: str | None) -> Dataset | None:
    """Open the dataset that a model was trained on, if it is there.

    The path that a model names is followed only on the model's own storage: on a local one, or in
    the same bucket. So no model of others makes us connect to anywhere.

    Raises
    ------
    InputError
        If `path` names another one.
    """
    asked = path or manifest.dataset["path"]
    if path is None and not is_on_same_storage(asked, model):
        _LOG.warning(
            "%s names a dataset on other storage than its own, %r, which is not opened unasked; "
            "name it with --dataset, or with dataset= in Python",
            model,
            asked,
        )
        return None
    if path is None and not is_dataset(asked):
        return None
    dataset = open_dataset(asked)
    if dataset.fingerprint == manifest.dataset["fingerprint"]:
        return dataset
    if path is None:
        return None
    raise InputError(
        f"{model} was not trained on {path}: their fingerprints differ; it was trained on "
        f"{manifest.dataset['path']}"
    )


def rated_rows(dataset: Dataset, side: Side, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the other side that a row has training ratings of, and the ratings."""
    partitions = dataset.table(side).partitions
    number = int(np.searchsorted([part.start for part in partitions], row, side="right")) - 1
    block = recently_read_block(dataset.fingerprint, dataset.path, side, number, partitions[number])
    first, last = block.indptr[row - block.rows.start : row - block.rows.start + 2]
    return block.indices[first:last], block.ratings[first:last]
