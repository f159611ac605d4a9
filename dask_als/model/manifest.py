"""The manifest of a model: what model.json says, and where the other files are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dask_als.core import json_files, storage
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.side import SIDES, USERS, Side
from dask_als.core.typed_tables import from_manifest
from dask_als.data.dataset import Dataset, Partition, mistake_in_ranges
from dask_als.errors import InputError
from dask_als.model.compact import Compact
from dask_als.model.initial import InitialModel
from dask_als.model.row_prior_files import RowPriorFiles
from dask_als.settings.training import TrainSettings

FORMAT_VERSION = 1
MANIFEST = "model.json"
HISTORY = "history.jsonl"


@dataclass(frozen=True)
class ModelSide:
    """The entry of one side in model.json.

    Attributes
    ----------
    digest : str
        SHA-256 of the ids in the order of the dataset.
    mean_bias : float
        The bias of rows without training ratings, and of unknown ids.
    partitions : tuple of Partition
        Rows, training ratings and CRC-32 of the part files.
    new_rows_crc32 : int or None
        For a compact model, CRC-32 of the prior of new rows.
    """

    digest: str
    mean_bias: float
    partitions: tuple[Partition, ...]
    new_rows_crc32: int | None = None

    @property
    def n_rows(self) -> int:
        """Rows of the side."""
        return self.partitions[-1].stop

    def written(self, checksums: Sequence[int]) -> ModelSide:
        """Return the entry of a side whose parts have these checksums."""
        parts = zip(self.partitions, checksums, strict=True)
        return replace(self, partitions=tuple(replace(part, crc32=crc) for part, crc in parts))


@dataclass(frozen=True)
class KeptFiles:
    """CRC-32 of the files that resuming from a checkpoint reads in addition to the model.

    Attributes
    ----------
    predictions : tuple of int
        The sums of predictions of held-out ratings, a file for each partition that has some.
    samples : tuple of int or None
        The manifests of the samples so far, in order; None for one that an earlier release
        wrote.
    reduction : int or None
        The manifest of the newest reduction of samples, if there is one. The samples that it
        covers may have been removed.
    user_row_prior, item_row_prior : RowPriorFiles or None
        The files of each side with attributes.
    """

    predictions: tuple[int, ...] = ()
    samples: tuple[int | None, ...] = ()
    reduction: int | None = None
    user_row_prior: RowPriorFiles | None = None
    item_row_prior: RowPriorFiles | None = None

    def row_prior(self, side: Side) -> RowPriorFiles | None:
        """Return the row prior files of one side."""
        return self.user_row_prior if side is USERS else self.item_row_prior


@dataclass(frozen=True)
class ModelManifest:
    """The contents of model.json.

    Attributes
    ----------
    settings : TrainSettings
    global_mean : float
        Subtracted from the ratings before training.
    rating_min, rating_max : float
        The range of the training ratings.
    dataset : dict
        ``path`` and ``fingerprint`` of the dataset that the model was trained on.
    users, items : ModelSide
    figures : EpochFigures
        Of the last epoch.
    samples : int
        How many samples the model averages: their factors are concatenated.
    residual_precision : float or None
        With gibbs, the inverse of the variance of ratings around their predictions.
    history_crc32 : int or None
        CRC-32 of the file of all epochs' figures; None if it is not known.
    kept : KeptFiles or None
        For a checkpoint, the other files that resuming reads; None if they are not known.
    compact : Compact or None
        For a compact model, what it was made of.
    initial : InitialModel or None
        The model that training started from; None if there was none.
    """

    settings: TrainSettings
    global_mean: float
    rating_min: float
    rating_max: float
    dataset: dict[str, str]
    users: ModelSide
    items: ModelSide
    figures: EpochFigures
    samples: int = 1
    residual_precision: float | None = None
    history_crc32: int | None = None
    kept: KeptFiles | None = None
    compact: Compact | None = None
    initial: InitialModel | None = None

    @property
    def rank(self) -> int:
        """Length of a factor vector of the model."""
        if self.compact is not None:
            return self.compact.rank
        return self.settings.rank * self.samples

    @property
    def knows_deviations(self) -> bool:
        """Whether it holds the samples of both sides, which standard deviations need."""
        return self.samples > 1 and self.residual_precision is not None

    def side(self, side: Side) -> ModelSide:
        """Return the entry of one side."""
        return self.users if side is USERS else self.items

    def files(self, model: str) -> dict[str, int]:
        """Return the path of every file of the model at `model`, and the file's CRC-32."""
        found = {
            part_path(model, side, number): part.crc32
            for side in SIDES
            for number, part in enumerate(self.side(side).partitions)
        }
        for side in SIDES:
            crc32 = self.side(side).new_rows_crc32
            if crc32 is not None:
                found[new_rows_path(model, side)] = crc32
        if self.history_crc32 is not None:
            found[storage.join(model, HISTORY)] = self.history_crc32
        return found

    def with_side(self, side: Side, entry: ModelSide) -> ModelManifest:
        """Return the manifest with another entry for a side."""
        return replace(self, users=entry) if side is USERS else replace(self, items=entry)


def part_path(model: str, side: Side, number: int) -> str:
    """Return the path of one part of a model."""
    return storage.part_of(model, side.name, storage.part_name(number))


def new_rows_path(model: str, side: Side) -> str:
    """Return the path of the prior of new rows of a compact model."""
    return storage.part_of(model, f"new_{side.name}.parquet")


def write_manifest(directory: str, manifest: ModelManifest) -> None:
    """Write model.json, which completes the model."""
    value = {"rank": manifest.rank, **asdict(manifest)}
    path = storage.join(directory, MANIFEST)
    json_files.write_manifest(path, value, format_version=FORMAT_VERSION)


def read_manifest(model: str) -> ModelManifest:
    """Read model.json.

    Raises
    ------
    InputError
        If there is no model, or it is damaged or of another format version.
    """
    path = storage.part_of(model, MANIFEST)
    if not storage.exists(path):
        what = f"is not a model (no {MANIFEST})" if storage.exists(model) else "is not there"
        raise InputError(f"{model} {what}; make one with: dask-als train")
    value: dict[str, Any] = json_files.read_manifest(path, format_version=FORMAT_VERSION)
    rank = value.pop("rank", None)
    manifest = from_manifest(ModelManifest, value, path)
    mistake = _mistake_in(manifest, rank)
    if mistake is not None:
        raise InputError(f"{path} is damaged: {mistake}")
    return manifest


def _mistake_in(manifest: ModelManifest, rank: object) -> str | None:
    """Return the first contradiction in a manifest of the right types; None if there is none."""
    if manifest.samples < 1 or rank != manifest.rank:
        return f"rank is {rank!r}; it must be {manifest.rank}"
    for name in ("path", "fingerprint"):
        if name not in manifest.dataset:
            return f"dataset.{name} is missing"
    for side in SIDES:
        partitions = manifest.side(side).partitions
        mistake = mistake_in_ranges(partitions) if partitions else f"{side.name} has no partitions"
        if mistake is not None:
            return mistake
    return None


def check_same_ids(manifest: ModelManifest, dataset: Dataset, model: str) -> None:
    """Check that a model's rows are those of a dataset.

    Raises
    ------
    InputError
        If they are not.
    """
    for side in SIDES:
        own, ids = manifest.side(side), dataset.table(side)
        if (own.digest, own.n_rows) != (ids.digest, ids.n_rows):
            raise InputError(
                f"{model} and {dataset.path} do not belong together: their {side.name} differ; "
                f"the model was trained on {manifest.dataset['path']}"
            )
