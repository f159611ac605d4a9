"""A trained model in memory, which needs no cluster: predict, recommend, find similar, fold in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd

from dask_als.core.blocks import Factors, predictions
from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import MODEL
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model.explain import check_explainable, explained
from dask_als.model.files import ModelManifest
from dask_als.model.folded_in import FoldedIn
from dask_als.model.predictive_variance import standard_deviations
from dask_als.model.recommend import allowed_rows
from dask_als.model.row_solver import RowSolver
from dask_als.model.rows import UNKNOWN, ModelRows, read_model_rows, write_model_rows
from dask_als.model.similarity import Measure, similarities
from dask_als.model.top_k import best_rows, check_k
from dask_als.model.training_data import dataset_of, rated_rows
from dask_als.settings.training import TrainSettings

if TYPE_CHECKING:
    Id = int | str | np.integer[Any]
    Ids = Id | Sequence[Any] | np.ndarray | pd.Series[Any] | pd.Index[Any]


class ALSModel:
    """A trained model.

    Attributes
    ----------
    manifest : ModelManifest
        Settings, mean, where it was trained on.
    users, items : ModelRows
    history : list of EpochFigures
    dataset : Dataset or None
        What it was trained on, if it is still there: for titles and for what users have rated.

    Examples
    --------
    The model that ``dask-als demo`` leaves:

    >>> from dask_als import ALSModel
    >>> model = ALSModel.load("demo/model")
    >>> model.predict(users=[307, 307], items=[296, 969]).round(1)
    array([4.7, 4.8])
    >>> model.recommend(user=307, k=2)["title"].tolist()
    ['African Queen, The', 'Modern Times']
    """

    def __init__(
        self,
        manifest: ModelManifest,
        users: ModelRows,
        items: ModelRows,
        history: list[EpochFigures],
        dataset: Dataset | None,
    ) -> None:
        self.manifest = manifest
        self.users = users
        self.items = items
        self.history = history
        self.dataset = dataset

    def __repr__(self) -> str:
        users, items = len(self.users.ids), len(self.items.ids)
        return f"<ALSModel: rank {self.manifest.rank}, {users:,} users, {items:,} items>"

    @classmethod
    def load(cls, path: str, dataset: str | None = None) -> ALSModel:
        """Load a model directory.

        Parameters
        ----------
        path : str
        dataset : str, optional
            The dataset it was trained on, if it was moved since.

        Raises
        ------
        InputError
            If the model is missing or damaged, or `dataset` is not the one it was trained on.
        """
        manifest = model_files.read_manifest(path)
        users, items = (read_model_rows(path, manifest, side) for side in SIDES)
        history = model_files.read_history(path)
        return cls(manifest, users, items, history, dataset_of(manifest, path, dataset))

    def save(self, path: str, *, overwrite: bool = False) -> None:
        """Write a model directory.

        Raises
        ------
        InputError
            If something is at `path` already.
        """
        with staged_directory(path, MODEL, overwrite=overwrite) as staging:
            users, items = (
                write_model_rows(staging, self.manifest.side(side), self.rows(side))
                for side in SIDES
            )
            crc32 = model_files.write_history(staging, self.history)
            manifest = replace(self.manifest, users=users, items=items, history_crc32=crc32)
            model_files.write_manifest(staging, replace(manifest, kept=None))

    @cached_property
    def _solver(self) -> RowSolver:
        return RowSolver(self.manifest, {side: self.rows(side) for side in SIDES})

    @property
    def settings(self) -> TrainSettings:
        """How the model was trained."""
        return self.manifest.settings

    def rows(self, side: Side) -> ModelRows:
        """Return one side."""
        return self.users if side is USERS else self.items

    # A single id is one of `Ids`, too: the first signature that matches counts.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, users: Id, items: Id, *, std: Literal[False] = False
    ) -> float: ...
    @overload
    def predict(self, users: Ids, items: Ids, *, std: Literal[False] = False) -> np.ndarray: ...
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, users: Id, items: Id, *, std: Literal[True]
    ) -> tuple[float, float]: ...
    @overload
    def predict(
        self, users: Ids, items: Ids, *, std: Literal[True]
    ) -> tuple[np.ndarray, np.ndarray]: ...
    def predict(
        self, users: Ids, items: Ids, *, std: bool = False
    ) -> float | np.ndarray | tuple[float, float] | tuple[np.ndarray, np.ndarray]:
        """Predict ratings.

        An unknown user or item counts as one with the mean bias and no factors.

        Parameters
        ----------
        users, items : id or sequence of ids
            Pairs; a single id goes with all of the other.
        std : bool, optional
            Whether the standard deviation of each rating is returned, too.

        Returns
        -------
        float or ndarray of float64
            Of the same length; a float for two single ids. With `std`, a pair of them: predictions
            and standard deviations (`dask_als.model.predictive_variance`).

        Raises
        ------
        InputError
            If standard deviations are asked of a model that is not an average of samples.
        """
        user_ids, item_ids = np.asarray(users), np.asarray(items)
        is_single = user_ids.ndim == 0 and item_ids.ndim == 0
        user_rows = self.users.rows(np.atleast_1d(user_ids))
        item_rows = self.items.rows(np.atleast_1d(item_ids))
        user_rows, item_rows = np.broadcast_arrays(user_rows, item_rows)
        predicted = predictions(
            self.users.with_unknown,
            self.items.with_unknown,
            user_rows,
            item_rows,
            mean=self.manifest.global_mean,
        )
        if not std:
            return float(predicted[0]) if is_single else predicted
        deviations = self._deviations(user_rows, item_rows)
        return (float(predicted[0]), float(deviations[0])) if is_single else (predicted, deviations)

    def _deviations(self, user_rows: np.ndarray, item_rows: np.ndarray) -> np.ndarray:
        precision = model_files.check_has_samples(self.manifest, "the model")
        return standard_deviations(
            self.users.samples_with_unknown,
            self.items.samples_with_unknown,
            user_rows,
            item_rows,
            residual_precision=precision,
        )

    def recommend(
        self, user: Any, k: int = 10, *, seen: bool = False, std: bool = False
    ) -> pd.DataFrame:
        """Return the items with the highest predicted ratings for a user.

        An unknown user gets the items with the highest biases.

        Parameters
        ----------
        user : id
        k : int, optional
        seen : bool, optional
            Whether items that the user has rated may be among them.
        std : bool, optional
            Whether the standard deviation of each rating is given, too.

        Returns
        -------
        pandas.DataFrame
            Columns ``rank`` (from 1), ``item_id``, ``score``, with `std` ``std``, and, if the
            dataset has it, ``title``.

        Raises
        ------
        InputError
            If seen items are to be left out and the dataset is no longer there, or if standard
            deviations are asked of a model that is not an average of samples.
        """
        return self.recommend_to(USERS, user, k, seen=seen, std=std)

    def recommend_to(
        self,
        side: Side,
        identifier: Any,
        k: int = 10,
        *,
        seen: bool = False,
        std: bool = False,
        include: Sequence[Any] | None = None,
        exclude: Sequence[Any] = (),
    ) -> pd.DataFrame:
        """Return the best for a user or an item, as `recommend`.

        Parameters
        ----------
        side : Side
            Of the one who gets recommendations, of the other side.
        identifier : id
        k, seen, std : optional
        include, exclude : sequence of ids, optional
            What may, and what may not be recommended.
        """
        own, other = self.rows(side), self.rows(side.other)
        (row,) = own.rows([identifier])
        without = np.array([], dtype=np.int32)
        if not seen and row != UNKNOWN:
            without = self._rated_rows(side, int(row))[0]
        allowed = allowed_rows(other.ids, side.other, include, exclude)
        state = own.with_unknown
        one = Factors(state.bias[[row]], state.factors[[row]])
        others, mean = other.state, self.manifest.global_mean
        found, scores = best_rows(one, others, k, without=without, allowed=allowed, mean=mean)
        columns = {"score": scores}
        if std:
            pairs = {side: np.full(len(found), row), side.other: found}
            columns["std"] = self._deviations(pairs[USERS], pairs[ITEMS])
        return self._ranked(side.other, found, **columns)

    def best_for(self, side: Side, one: Factors, k: int, *, without: np.ndarray) -> pd.DataFrame:
        """Return the rows of the other side with the highest predicted ratings for one row."""
        others, mean = self.rows(side.other).state, self.manifest.global_mean
        found, scores = best_rows(one, others, k, without=without, mean=mean)
        return self._ranked(side.other, found, score=scores)

    def rated_items(self, user: Any) -> pd.DataFrame:
        """Return a user's training ratings, the highest first: item_id, rating and title."""
        items, ratings = self._rated_rows(USERS, self.users.row(user))
        order = np.lexsort((items, -ratings))
        return self._described(ITEMS, items[order], rating=ratings[order])

    def similar_items(
        self, item: Any, k: int = 10, *, least_ratings: int = 0, measure: Measure = "cosine"
    ) -> pd.DataFrame:
        """Return the items whose factors are most alike.

        Parameters
        ----------
        item : id
        k : int, optional
        least_ratings : int, optional
            Leave out items with fewer training ratings, whose direction is much by chance.
        measure : {"cosine", "inner-product"}, optional
            What is compared: directions alone, or lengths, too.

        Returns
        -------
        pandas.DataFrame
            As `recommend`; the score is the measure.

        Raises
        ------
        InputError
            If the item is unknown.
        """
        return self.similar(ITEMS, item, k, least_ratings=least_ratings, measure=measure)

    def name_of(self, item: Any) -> str:
        """Return an item's title, or its id where titles are not known."""
        (described,) = self._described(ITEMS, np.array([self.items.row(item)])).to_dict("records")
        title = described.get("title")
        return title if isinstance(title, str) else str(item)

    def similar_users(
        self, user: Any, k: int = 10, *, least_ratings: int = 0, measure: Measure = "cosine"
    ) -> pd.DataFrame:
        """Return the users whose factors are most alike, as `similar_items`."""
        return self.similar(USERS, user, k, least_ratings=least_ratings, measure=measure)

    def explain(self, user: Any, item: Any) -> pd.DataFrame:
        """Return which of a user's ratings a prediction comes from, the most telling first.

        The user is solved anew with the items as they are, so that the parts, the user's and the
        item's bias and the mean add up to ``fold_in(ratings).scores``.

        Parameters
        ----------
        user, item : id

        Returns
        -------
        pandas.DataFrame
            Columns ``item_id``, ``rating``, ``weight`` (how alike the two items are to this user),
            ``part`` (of the prediction, in units of a rating) and, if known, ``title``. The sum of
            all parts, by which the prediction differs from the biases alone, is in
            ``attrs["product"]``, the prediction in ``attrs["score"]``. In a compact model of gibbs,
            the product also has what is expected of any user.

        Raises
        ------
        InputError
            If user or item is unknown, the dataset is no longer there, or the predictions of the
            model are not linear in ratings.
        """
        check_explainable(self.manifest)
        row, target = self.users.row(user), self.items.row(item)
        rated, ratings = self._rated_rows(USERS, row)
        solved = self._solver.solve(USERS, rated, ratings, self.users.state[row : row + 1])
        found = explained(
            self.manifest,
            self.users.new_rows,
            float(solved.bias[0]),
            self.items.state,
            rated,
            ratings,
            target,
        )
        order = np.lexsort((rated, -np.abs(found.parts)))
        described = self._described(
            ITEMS,
            rated[order],
            rating=ratings[order],
            weight=found.weights[order],
            part=found.parts[order],
        )
        described.attrs = {"product": found.product, "score": found.score}
        return described

    def fold_in(self, ratings: Mapping[Any, float]) -> FoldedIn:
        """Solve a new user from their ratings, with the same kernel as in training.

        Parameters
        ----------
        ratings : mapping of item id to rating
            Of items in the model; others are an error.

        Raises
        ------
        InputError
            If an item is unknown or a rating is not a finite number.
        """
        return self._fold_in(USERS, ratings)

    def fold_in_item(self, ratings: Mapping[Any, float]) -> FoldedIn:
        """Solve a new item from its ratings by user id, as `fold_in`."""
        return self._fold_in(ITEMS, ratings)

    def _fold_in(self, side: Side, ratings: Mapping[Any, float]) -> FoldedIn:
        fixed = self.rows(side.other)
        rows = np.array([fixed.row(identifier) for identifier in ratings], dtype=np.int32)
        values = np.array(list(ratings.values()), dtype=np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"ratings must be finite numbers: {dict(ratings)}")
        dtype, rank = fixed.state.factors.dtype, fixed.state.factors.shape[1]
        unknown = Factors(np.zeros(1, dtype), np.zeros((1, rank), dtype))
        order = np.argsort(rows)
        solved = self._solver.solve(side, rows[order], values[order], unknown)
        bias = solved.bias[0] if len(rows) else self.rows(side).mean_bias
        return FoldedIn(self, side, float(bias), solved.factors[0], rows)

    def scores(self, side: Side, state: Factors, row: int) -> np.ndarray:
        """Return the predicted rating of one row of a state and every row of the other side."""
        fixed = self.rows(side.other).state
        products = fixed.factors @ state.factors[row].astype(fixed.factors.dtype)
        return self.manifest.global_mean + float(state.bias[row]) + fixed.bias + products

    def best(self, side: Side, scores: np.ndarray, k: int, *, without: np.ndarray) -> pd.DataFrame:
        """Return the rows with the highest scores; of equal scores, the first rows."""
        check_k(k)
        scores = scores.astype(np.float64)
        scores[without] = -np.inf
        allowed = len(scores) - len(np.unique(without))
        order = np.argsort(-scores, kind="stable")[: min(k, allowed)]
        return self._ranked(side, order, score=scores[order])

    def similar(
        self,
        side: Side,
        identifier: Any,
        k: int = 10,
        *,
        least_ratings: int = 0,
        measure: Measure = "cosine",
    ) -> pd.DataFrame:
        """Return the rows of a side whose factors are most alike, as `similar_items`."""
        rows = self.rows(side)
        row = rows.row(identifier)
        scores = similarities(rows.state.factors, row, measure)
        without = rows.counts < least_ratings
        without[row] = True
        return self.best(side, scores, k, without=np.flatnonzero(without))

    def _ranked(self, side: Side, rows: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
        described = self._described(side, rows, **columns)
        described.insert(0, "rank", np.arange(1, len(rows) + 1))
        return described

    def _described(self, side: Side, rows: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
        described = pd.DataFrame({f"{side.singular}_id": self.rows(side).ids[rows], **columns})
        if side is ITEMS and self.dataset is not None and self.dataset.has_titles:
            described["title"] = self._titles[rows]
        return described

    @cached_property
    def _titles(self) -> np.ndarray:
        assert self.dataset is not None
        return self.dataset.read_rows(ITEMS).column("title").to_pandas().to_numpy()

    def _rated_rows(self, side: Side, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the other side that a row has training ratings of, and the ratings."""
        if self.dataset is None:
            raise InputError(
                f"what {side.name} have rated is in {self.manifest.dataset['path']}, which is not "
                "there; load the model with dataset=, or recommend with seen=True"
            )
        return rated_rows(self.dataset, side, row)
