"""A kept sample on disk: what the average over samples is made of, and nothing else.

::

    sample-00012/
      sample.json                    mean biases, residual precision, CRC-32 of parts; written last
      users/part-00000.arrow …       bias, factors
      items/part-00000.arrow …       the same

A model of every epoch would do as well, but writing and reading lists in Parquet takes the
processor ten times as long, which shows beside an epoch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from dask_als import model_files, storage
from dask_als.blocks import State
from dask_als.errors import InputError
from dask_als.side import SIDES, Side

FORMAT_VERSION = 1
MANIFEST = "sample.json"


@dataclass(frozen=True)
class SampleSide:
    """What sample.json says of one side.

    Attributes
    ----------
    mean_bias : float
        Of the rows with training ratings.
    checksums : list of int
        CRC-32 of the parts.
    """

    mean_bias: float
    checksums: list[int]


@dataclass(frozen=True)
class SampleManifest:
    """What sample.json says.

    Attributes
    ----------
    sides : dict of Side to SampleSide
    residual_precision : float
        The inverse of the variance that ratings have around their predictions.
    """

    sides: dict[Side, SampleSide]
    residual_precision: float


def write_part(sample: str, side: Side, number: int, state: State) -> int:
    """Write the state of a partition's rows; return the file's CRC-32."""
    table = pa.table(model_files.state_columns(state))
    return storage.write_arrow(_part_path(sample, side, number), table)


def read_part(sample: str, side: Side, number: int, crc32: int) -> State:
    """Read the state of a partition's rows.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    path = _part_path(sample, side, number)
    return model_files.state_of(storage.read_arrow(path, crc32=crc32))


def _part_path(sample: str, side: Side, number: int) -> str:
    return storage.part_of(sample, side.name, storage.part_name(number, "arrow"))


def write_manifest(sample: str, manifest: SampleManifest) -> None:
    """Write what completes the sample."""
    value: dict[str, Any] = {side.name: asdict(its) for side, its in manifest.sides.items()}
    value["residual_precision"] = manifest.residual_precision
    path = storage.join(sample, MANIFEST)
    storage.write_manifest(path, value, format_version=FORMAT_VERSION)


def read_manifest(sample: str) -> SampleManifest:
    """Read sample.json.

    Raises
    ------
    InputError
        If it is missing, damaged or of another format version.
    """
    path = storage.part_of(sample, MANIFEST)
    value: dict[str, Any] = storage.read_manifest(path, format_version=FORMAT_VERSION)
    try:
        sides = {side: SampleSide(**value[side.name]) for side in SIDES}
        return SampleManifest(sides, value["residual_precision"])
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged: {storage.first_line(error)}") from None
