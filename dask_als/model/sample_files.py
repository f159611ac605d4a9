"""A sample on disk: biases and factors, which the average over samples needs, and no more.

::

    sample-00012/
      sample.json                    mean biases, residual precision, CRC-32 of parts; written last
      users/part-00000.arrow …       bias, factors
      items/part-00000.arrow …       the same
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dask_als.core import checksums, json_files, storage
from dask_als.core.blocks import Factors
from dask_als.core.side import ITEMS, USERS, Side
from dask_als.core.typed_tables import from_manifest
from dask_als.errors import InputError
from dask_als.model.manifest import ModelManifest

FORMAT_VERSION = 1
MANIFEST = "sample.json"


@dataclass(frozen=True)
class SampleSide:
    """The entry of one side in sample.json.

    Attributes
    ----------
    mean_bias : float
        Mean bias of the rows with training ratings.
    checksums : tuple of int
        CRC-32 of the parts.
    """

    mean_bias: float
    checksums: tuple[int, ...]


@dataclass(frozen=True)
class SampleManifest:
    """The contents of sample.json.

    Attributes
    ----------
    sides : dict of Side to SampleSide
    residual_precision : float
        The inverse of the variance of ratings around their predictions.
    """

    sides: dict[Side, SampleSide]
    residual_precision: float


@dataclass(frozen=True)
class _File:
    """The contents of sample.json by its keys."""

    users: SampleSide
    items: SampleSide
    residual_precision: float


def average_of_samples(samples: list[Factors]) -> Factors:
    """Return the state whose predictions are the mean of the predictions of all samples.

    The mean of u·v over S samples is one product of vectors that are S times as long: those of the
    samples, concatenated and divided by the root of S.
    """
    bias = np.mean([state.bias for state in samples], axis=0, dtype=np.float64)
    factors = np.concatenate([state.factors for state in samples], axis=1)
    dtype = factors.dtype
    return Factors(bias.astype(dtype), factors / dtype.type(np.sqrt(len(samples))))


def write_manifest(sample: str, manifest: SampleManifest) -> None:
    """Write sample.json, which completes a sample."""
    value: dict[str, Any] = {side.name: asdict(entry) for side, entry in manifest.sides.items()}
    value["residual_precision"] = manifest.residual_precision
    path = storage.join(sample, MANIFEST)
    json_files.write_manifest(path, value, format_version=FORMAT_VERSION)


def read_manifest(sample: str, *, crc32: int | None = None) -> SampleManifest:
    """Read sample.json.

    Parameters
    ----------
    crc32 : int, optional
        The expected CRC-32 of the file, which identifies the sample of one epoch and training.

    Raises
    ------
    InputError
        If it is missing, damaged, of another sample or of another format version.
    """
    path = storage.part_of(sample, MANIFEST)
    if crc32 is not None:
        checksums.check_crc32(path, crc32)
    value = from_manifest(
        _File, json_files.read_manifest(path, format_version=FORMAT_VERSION), path
    )
    return SampleManifest({USERS: value.users, ITEMS: value.items}, value.residual_precision)


def check_has_samples(manifest: ModelManifest, model: str) -> float:
    """Check that a model is an average of samples, and return its residual precision.

    Raises
    ------
    InputError
        If it is not one, and so has no standard deviations.
    """
    if not manifest.knows_deviations or manifest.residual_precision is None:
        raise InputError(
            f"{model} is not an average of samples of both sides, so it knows no standard "
            "deviations; train one with --method gibbs and --keep-samples"
        )
    return manifest.residual_precision
