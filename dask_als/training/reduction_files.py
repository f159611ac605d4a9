"""A reduction on disk: the sum over the samples so far, cut down to a working rank.

::

    reduction-00019/
      reduction.json                 figures of the samples, CRC-32 of the files; written last
      users/part-00000.arrow …       bias (sum over samples), factors
      users-moments.arrow            mean and second moments of new rows, as sums over samples
      items/part-00000.arrow …       the same
      items-moments.arrow
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dask_als.core import checksums, json_files, storage, table_files
from dask_als.core.blocks import Factors
from dask_als.core.side import USERS, Side
from dask_als.core.typed_tables import from_manifest
from dask_als.model import files as model_files

FORMAT_VERSION = 1
MANIFEST = "reduction.json"


@dataclass(frozen=True)
class ReducedSide:
    """What reduction.json says of one side.

    Attributes
    ----------
    mean_biases : tuple of float
        The mean bias in each sample.
    bias_variance : float
        The variance of the bias of a new row, summed over samples.
    checksums : tuple of int
        CRC-32 of the parts.
    moments_crc32 : int
        CRC-32 of the moments of new rows.
    """

    mean_biases: tuple[float, ...] = ()
    bias_variance: float = 0.0
    checksums: tuple[int, ...] = ()
    moments_crc32: int = 0


@dataclass(frozen=True)
class ReductionManifest:
    """What reduction.json says.

    Attributes
    ----------
    users, items : ReducedSide
    residual_precisions : tuple of float
        The residual precision of each sample.
    distance : float
        An upper bound on the distance between the factors' product and the sum over samples: the
        root of the sum of squared differences over all pairs.
    """

    users: ReducedSide = ReducedSide()
    items: ReducedSide = ReducedSide()
    residual_precisions: tuple[float, ...] = ()
    distance: float = 0.0

    @property
    def n_samples(self) -> int:
        """The number of samples in the sum."""
        return len(self.residual_precisions)

    def side(self, side: Side) -> ReducedSide:
        """Return what is known of one side."""
        return self.users if side is USERS else self.items


@dataclass(frozen=True)
class NewRowMoments:
    """Moments of the factors of a row without ratings, summed over samples.

    Attributes
    ----------
    mean : ndarray of float64, shape (rank,)
    second : ndarray of float64, shape (rank, rank)
        Of the products of two factors.
    """

    mean: np.ndarray
    second: np.ndarray


def write_moments(reduction: str, side: Side, moments: NewRowMoments) -> int:
    """Write the moments of new rows; return the file's CRC-32."""
    columns = model_files.state_columns(Factors(moments.mean, moments.second))
    table = pa.table({"mean": columns["bias"], "second": columns["factors"]})
    return table_files.write_arrow(_moments_path(reduction, side), table)


def read_moments(reduction: str, side: Side, crc32: int) -> NewRowMoments:
    """Read the moments of new rows.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    table = table_files.read_arrow(_moments_path(reduction, side), crc32=crc32)
    read = model_files.state_of(table.rename_columns(["bias", "factors"]))
    return NewRowMoments(read.bias, read.factors)


def _moments_path(reduction: str, side: Side) -> str:
    return storage.part_of(reduction, f"{side.name}-moments.arrow")


def write_manifest(reduction: str, manifest: ReductionManifest) -> None:
    """Write the manifest of a reduction whose other files are written."""
    value: dict[str, Any] = asdict(manifest)
    path = storage.join(reduction, MANIFEST)
    json_files.write_manifest(path, value, format_version=FORMAT_VERSION)


def read_manifest(reduction: str, *, crc32: int) -> ReductionManifest:
    """Read reduction.json, whose CRC-32 must be the given one.

    Raises
    ------
    InputError
        If it is missing, damaged, another one or of another format version.
    """
    path = storage.part_of(reduction, MANIFEST)
    checksums.check_crc32(path, crc32)
    content = json_files.read_manifest(path, format_version=FORMAT_VERSION)
    return from_manifest(ReductionManifest, content, path)
