"""The prior of new rows of a model, on disk: ``new_users.parquet`` and ``new_items.parquet``.

One row for the bias, then one for each factor: its ``mean``, and its row of the ``root`` R, with
which the covariance is R Rᵀ.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dask_als.core import table_files
from dask_als.core.blocks import Factors
from dask_als.core.limits import ParquetLimit
from dask_als.core.side import SIDES, Side
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.manifest import ModelManifest
from dask_als.solvers.new_row_prior import NewRowPrior


def write_new_rows(model: str, side: Side, prior: NewRowPrior) -> int:
    """Write the prior of new rows of a side; return the file's CRC-32."""
    columns = model_files.state_columns(Factors(prior.mean, prior.root))
    table = pa.table({"mean": columns["bias"], "root": columns["factors"]})
    return table_files.write_parquet(model_manifest.new_rows_path(model, side), table)


def read_new_rows(model: str, manifest: ModelManifest, side: Side) -> NewRowPrior | None:
    """Read the prior of new rows of a side; None for a model without one.

    Raises
    ------
    InputError
        If the file is missing, damaged or not the one that belongs there.
    """
    crc32 = manifest.side(side).new_rows_crc32
    if crc32 is None:
        return None
    path, size = model_manifest.new_rows_path(model, side), manifest.rank + 1
    limit = ParquetLimit(size, 8 * (size + 1))
    table = table_files.read_parquet(path, ["mean", "root"], crc32=crc32, limit=limit)
    if table.schema.types != [pa.float64(), pa.list_(pa.float64(), size)]:
        raise InputError(f"{path} is not what the manifest says: a mean and a root of rank {size}")
    read = model_files.state_of(table.rename_columns(["bias", "factors"]))
    return NewRowPrior(read.bias, np.ascontiguousarray(read.factors))


def read_both(model: str, manifest: ModelManifest) -> dict[Side, NewRowPrior]:
    """Read the priors of new rows that a model has: of both sides, or of none."""
    found = {side: read_new_rows(model, manifest, side) for side in SIDES}
    return {side: prior for side, prior in found.items() if prior is not None}
