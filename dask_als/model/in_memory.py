"""The state of a trained model in memory: both sides, their files, and the dataset they need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dask_als.core import storage
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.core.wording import python_words
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model import sample_files
from dask_als.model.manifest import ModelManifest
from dask_als.model.predictive_variance import standard_deviations
from dask_als.model.rows import ModelRows, read_model_rows
from dask_als.model.saved import save_model
from dask_als.model.scores import scores_of_pairs
from dask_als.model.training_data import (
    OWN_DATASET,
    RatingsOfRow,
    dataset_of,
    packed,
    ratings_of,
    unpacked,
)
from dask_als.settings.training import TrainSettings

if TYPE_CHECKING:
    from dask_als.model.row_solver import RowSolver

    Id = int | str | np.integer[Any]
    Ids = Id | Sequence[Any] | np.ndarray | pd.Series[Any] | pd.Index[Any]


class InMemoryModel:
    """The state of a trained model; `ALSModel` adds the methods that use it.

    Attributes
    ----------
    manifest : ModelManifest
        Settings, mean, and the path of its dataset.
    users, items : ModelRows
    history : list of EpochFigures
    dataset : Dataset or None
        The dataset it was trained on, if it is found: for titles and training ratings.
    owns_dataset : bool
        Whether the dataset goes with the model: it was made for it, or is a copy in its directory.
    """

    def __init__(
        self,
        manifest: ModelManifest,
        users: ModelRows,
        items: ModelRows,
        history: list[EpochFigures],
        dataset: Dataset | None,
        *,
        owns_dataset: bool = False,
    ) -> None:
        self.manifest = manifest
        self.users = users
        self.items = items
        self.history = history
        self.dataset = dataset
        self.owns_dataset = owns_dataset

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle: a dataset of its own goes with the model."""
        names = ("manifest", "users", "items", "history", "dataset", "owns_dataset")
        state = {name: getattr(self, name) for name in names}
        if self.owns_dataset and self.dataset is not None:
            state["dataset"] = packed(self.dataset)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(state["dataset"], dict):
            self.dataset = unpacked(state["dataset"], self)

    def __repr__(self) -> str:
        users, items = len(self.users.ids), len(self.items.ids)
        return f"<ALSModel: rank {self.manifest.rank}, {users:,} users, {items:,} items>"

    @classmethod
    @python_words()
    def load(
        cls, path: str | os.PathLike[str], dataset: str | os.PathLike[str] | None = None
    ) -> Self:
        """Load a model directory; one that is replaced meanwhile is read again.

        The dataset of the model is looked for in the directory itself, where `save` copies it, at
        the path it had in training, at the same path relative to the model, and beside the model.

        Parameters
        ----------
        path : str or path
        dataset : str or path, optional
            The dataset it was trained on, if it is elsewhere now.

        Raises
        ------
        InputError
            If the model is missing or damaged, or `dataset` is not the one it was trained on.
        """
        path = os.fspath(path)
        given = None if dataset is None else os.fspath(dataset)
        while True:
            manifest = model_manifest.read_manifest(path)
            try:
                return cls._loaded(path, manifest, given)
            except InputError:
                if model_manifest.read_manifest(path) == manifest:
                    raise

    @classmethod
    def _loaded(cls, path: str, manifest: ModelManifest, dataset: str | None) -> Self:
        """Load the files that a manifest lists."""
        users, items = (read_model_rows(path, manifest, side) for side in SIDES)
        history = model_files.read_history(path, manifest)
        found = dataset_of(manifest, path, dataset)
        own_path = storage.absolute(storage.join(path, OWN_DATASET))
        is_own = found is not None and found.path == own_path
        return cls(manifest, users, items, history, found, owns_dataset=is_own)

    @python_words()
    def save(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, ratings: bool = True
    ) -> None:
        """Write a model directory.

        Parameters
        ----------
        path : str or path
        overwrite : bool, optional
            Whether a model that is there is replaced.
        ratings : bool, optional
            Whether a copy of the dataset goes with the model, so that recommendations, what users
            have rated, explanations and titles work wherever the model is moved. Without it the
            model refers to its dataset.

        Warns
        -----
        LeftOutWarning
            If the dataset is not found, so that only predictions, similarities and fold-in work.

        Raises
        ------
        InputError
            If something is at `path` already.
        """
        save_model(self, os.fspath(path), overwrite=overwrite, ratings=ratings)

    @cached_property
    def solver(self) -> RowSolver:
        """What solves single rows."""
        # Kernels take longer to import than most models to read.
        from dask_als.model.row_solver import RowSolver

        return RowSolver(self.manifest, {side: self.rows(side) for side in SIDES})

    @property
    def settings(self) -> TrainSettings:
        """How the model was trained."""
        return self.manifest.settings

    def rows(self, side: Side) -> ModelRows:
        """Return one side."""
        return self.users if side is USERS else self.items

    def scores(self, user_rows: np.ndarray, item_rows: np.ndarray) -> NDArray[np.float64]:
        """Return the predictions of pairs of rows; `UNKNOWN` is the row of an unknown id."""
        return scores_of_pairs(
            self.users.with_unknown,
            self.items.with_unknown,
            user_rows,
            item_rows,
            mean=self.manifest.global_mean,
        )

    def deviations(self, user_rows: np.ndarray, item_rows: np.ndarray) -> np.ndarray:
        """Return the standard deviations of the ratings of pairs of rows."""
        precision = sample_files.check_has_samples(self.manifest, "the model")
        return standard_deviations(
            self.users.samples_with_unknown,
            self.items.samples_with_unknown,
            user_rows,
            item_rows,
            residual_precision=precision,
        )

    def described(self, side: Side, rows: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
        """Return a frame of rows: their ids, other columns and, if known, titles."""
        described = pd.DataFrame({f"{side.singular}_id": self.rows(side).ids[rows], **columns})
        if side is ITEMS and self.dataset is not None and self.dataset.has_titles:
            described["title"] = self._titles[rows]
        return described

    @cached_property
    def _titles(self) -> np.ndarray:
        assert self.dataset is not None
        return self.dataset.read_rows(ITEMS).column("title").to_pandas().to_numpy()

    def ratings_of(self, side: Side, row: int) -> RatingsOfRow:
        """Return the training ratings of a row."""
        return ratings_of(self.training_data(side), side, row)

    def training_data(self, side: Side) -> Dataset:
        """Return the dataset; raise InputError if it is not found."""
        if self.dataset is None:
            raise InputError(
                f"the training ratings of {side.name} are neither in the model nor at "
                f"{self.manifest.dataset['path']}; name their dataset with --dataset; only "
                "recommendations with --seen need none"
            )
        return self.dataset
