"""A trained model in memory: predictions, recommendations, fold-in; it needs no cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd

from dask_als.core import storage
from dask_als.core.blocks import Factors
from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.core.wording import python_words
from dask_als.data.dataset import Dataset
from dask_als.data.frames import table_of
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model.explain import explained
from dask_als.model.files import ModelManifest
from dask_als.model.folded_in import FoldedIn
from dask_als.model.ids import Unknown, is_single, listed
from dask_als.model.lists import most_similar, recommended
from dask_als.model.pairs import predicted_pairs
from dask_als.model.predictive_variance import standard_deviations
from dask_als.model.row_solver import RowSolver
from dask_als.model.rows import ModelRows, read_model_rows
from dask_als.model.saved import save_model
from dask_als.model.scores import scores_of_all, scores_of_pairs
from dask_als.model.similarity import Measure
from dask_als.model.training_data import OWN_DATASET, dataset_of, packed, rated_rows, unpacked
from dask_als.settings.data import Columns
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.settings.training import TrainSettings

if TYPE_CHECKING:
    from dask_als.evaluation.results import Evaluation

    Id = int | str | np.integer[Any]
    Ids = Id | Sequence[Any] | np.ndarray | pd.Series[Any] | pd.Index[Any]


class ALSModel:
    """A trained model.

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
    ) -> ALSModel:
        """Load a model directory.

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
        manifest = model_files.read_manifest(path)
        users, items = (read_model_rows(path, manifest, side) for side in SIDES)
        history = model_files.read_history(path)
        found = dataset_of(manifest, path, given)
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
        self, users: Id, items: Id, *, std: Literal[False] = False, unknown: Unknown = "warn"
    ) -> float: ...
    @overload
    def predict(
        self, users: Ids, items: Ids, *, std: Literal[False] = False, unknown: Unknown = "warn"
    ) -> np.ndarray: ...
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, users: Id, items: Id, *, std: Literal[True], unknown: Unknown = "warn"
    ) -> tuple[float, float]: ...
    @overload
    def predict(
        self, users: Ids, items: Ids, *, std: Literal[True], unknown: Unknown = "warn"
    ) -> tuple[np.ndarray, np.ndarray]: ...
    @python_words()
    def predict(
        self, users: Ids, items: Ids, *, std: bool = False, unknown: Unknown = "warn"
    ) -> float | np.ndarray | tuple[float, float] | tuple[np.ndarray, np.ndarray]:
        """Predict ratings.

        An unknown user or item has the mean bias and no factors. Ids must be of the type that the
        model has, whole numbers or text; see `dask_als.model.ids`.

        Parameters
        ----------
        users, items : id or sequence of ids
            Pairs; a single id is paired with each id of the other side.
        std : bool, optional
            Whether the standard deviation of each rating is returned, too.
        unknown : {"warn", "error", "ignore"}, optional
            What happens if ids are not in the model: an `UnknownIdWarning` with their number, an
            error, or nothing.

        Returns
        -------
        float or ndarray of float64
            Of the same length; a float for two single ids. With `std`, a pair of them: predictions
            and standard deviations (`dask_als.model.predictive_variance`).

        Raises
        ------
        InputError
            If an id is missing or of another type, the numbers of users and items differ, or
            standard deviations are requested from a model that is not an average of samples.
        """
        single = is_single(users) and is_single(items)
        user_rows = self.users.rows(listed(users), unknown=unknown)
        item_rows = self.items.rows(listed(items), unknown=unknown)
        if len(user_rows) != len(item_rows) and 1 not in (len(user_rows), len(item_rows)):
            raise InputError(
                f"there are {len(user_rows):,} users and {len(item_rows):,} items; give as many "
                "of both, or a single id"
            )
        user_rows, item_rows = np.broadcast_arrays(user_rows, item_rows)
        predicted = scores_of_pairs(
            self.users.with_unknown,
            self.items.with_unknown,
            user_rows,
            item_rows,
            mean=self.manifest.global_mean,
        )
        if not std:
            return float(predicted[0]) if single else predicted
        deviations = self.deviations(user_rows, item_rows)
        return (float(predicted[0]), float(deviations[0])) if single else (predicted, deviations)

    @python_words()
    def predict_frame(
        self,
        pairs: Any,
        *,
        columns: Columns = Columns(),
        clip: bool = False,
        unknown: Unknown = "warn",
    ) -> pd.DataFrame:
        """Predict the ratings of a table of pairs.

        Parameters
        ----------
        pairs
            As the ratings of `ALS.fit`, in memory; ratings and times are not needed.
        columns : Columns, optional
            The names of the columns of users and items.
        clip : bool, optional
            Whether predictions are clipped to the range of the training ratings.
        unknown : {"warn", "error", "ignore"}, optional
            As for `predict`.

        Returns
        -------
        pandas.DataFrame
            Columns ``user_id``, ``item_id``, ``prediction``, ``user_known`` and ``item_known``, in
            the order of the pairs, with the index of a pandas frame.

        Raises
        ------
        InputError
            If a column is missing, or an id is missing or of another type.
        """
        wanted = replace(columns, rating=None, time=None)
        table = table_of(pairs, wanted)
        frame = predicted_pairs(self, table, clip=clip, unknown=unknown).to_pandas()
        if isinstance(pairs, pd.DataFrame):
            frame.index = pairs.index
        return frame

    @python_words()
    def evaluate(
        self,
        ratings: Any,
        *,
        k: int = 10,
        relevant_from: float | None = None,
        columns: Columns = Columns(),
    ) -> Evaluation:
        """Measure the model on held-out ratings, in this process.

        Parameters
        ----------
        ratings
            As for `ALS.fit`: a path, or ratings in memory.
        k : int, optional
            Length of the ranked lists.
        relevant_from : float, optional
            The lowest rating that makes an item relevant; any by default.
        columns : Columns, optional
            The names of the columns.

        Returns
        -------
        Evaluation
            ``errors["model"]`` has RMSE and MAE, ``ranking["model"]`` the measures of ranked lists.

        Raises
        ------
        InputError
            If ratings cannot be read.
        """
        # The only import from a folder above this one: an evaluation needs models.
        from dask_als.evaluation.own_ratings import evaluate_in_memory

        settings = EvaluateSettings(k=k, relevant_from=relevant_from)
        return evaluate_in_memory(self, ratings, columns, settings)

    def deviations(self, user_rows: np.ndarray, item_rows: np.ndarray) -> np.ndarray:
        """Return the standard deviations of the ratings of pairs of rows."""
        precision = model_files.check_has_samples(self.manifest, "the model")
        return standard_deviations(
            self.users.samples_with_unknown,
            self.items.samples_with_unknown,
            user_rows,
            item_rows,
            residual_precision=precision,
        )

    def recommend(
        self,
        user: Any,
        k: int = 10,
        *,
        seen: bool = False,
        std: bool = False,
        unknown: Unknown = "warn",
    ) -> pd.DataFrame:
        """Return the items with the highest predicted ratings for a user, or for several.

        An unknown user gets the items with the highest biases.

        Parameters
        ----------
        user : id or sequence of ids
        k : int, optional
        seen : bool, optional
            Whether items that the user has rated may be among them.
        std : bool, optional
            Whether the standard deviation of each rating is given, too.
        unknown : {"warn", "error", "ignore"}, optional
            What happens if users are not in the model, as for `predict`.

        Returns
        -------
        pandas.DataFrame
            Columns ``rank`` (from 1), ``item_id``, ``score``, with `std` ``std``, and, if the
            dataset has it, ``title``. For a sequence of users, ``user_id`` comes first.

        Raises
        ------
        InputError
            If an id is of another type than the model's, seen items are to be left out and the
            dataset is not found, or standard deviations are requested from a model that is not an
            average of samples.
        """
        return self.recommend_to(USERS, user, k, seen=seen, std=std, unknown=unknown)

    @python_words()
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
        unknown: Unknown = "warn",
    ) -> pd.DataFrame:
        """Return the best for a user or an item, or for several, as `recommend`.

        Parameters
        ----------
        side : Side
            Of the one who gets recommendations, of the other side.
        identifier : id or sequence of ids
        k, seen, std, unknown : optional
        include, exclude : sequence of ids, optional
            What may, and what must not be recommended.
        """
        return recommended(
            self,
            side,
            identifier,
            k,
            seen=seen,
            std=std,
            include=include,
            exclude=exclude,
            unknown=unknown,
        )

    @python_words()
    def rated_items(self, user: Any) -> pd.DataFrame:
        """Return a user's training ratings, the highest first: item_id, rating and title."""
        items, ratings = self.rated_rows(USERS, self.users.row(user))
        order = np.lexsort((items, -ratings))
        return self.described(ITEMS, items[order], rating=ratings[order])

    def similar_items(
        self, item: Any, k: int = 10, *, least_ratings: int = 0, measure: Measure = "cosine"
    ) -> pd.DataFrame:
        """Return the items whose factors are most similar.

        Parameters
        ----------
        item : id
        k : int, optional
        least_ratings : int, optional
            Leave out items with fewer training ratings, whose factors are uncertain.
        measure : {"cosine", "inner-product"}, optional
            Compare directions of factors alone, or also their lengths.

        Returns
        -------
        pandas.DataFrame
            As `recommend`; the score is the measure.

        Raises
        ------
        InputError
            If the item is unknown or has no training rating.
        """
        return self.similar(ITEMS, item, k, least_ratings=least_ratings, measure=measure)

    def name_of(self, item: Any) -> str:
        """Return an item's title, or its id where titles are not known."""
        (described,) = self.described(ITEMS, np.array([self.items.row(item)])).to_dict("records")
        title = described.get("title")
        return title if isinstance(title, str) else str(item)

    def similar_users(
        self, user: Any, k: int = 10, *, least_ratings: int = 0, measure: Measure = "cosine"
    ) -> pd.DataFrame:
        """Return the users whose factors are most similar, as `similar_items`."""
        return self.similar(USERS, user, k, least_ratings=least_ratings, measure=measure)

    @python_words()
    def explain(self, user: Any, item: Any) -> pd.DataFrame:
        """Return how much each of a user's ratings contributes to a prediction, the most first.

        The user is solved again with the items fixed, so that the parts, the biases of user and
        item and the mean add up to ``fold_in(ratings).scores``.

        Parameters
        ----------
        user, item : id

        Returns
        -------
        pandas.DataFrame
            Columns ``item_id``, ``rating``, ``weight`` (the similarity of the two items to this
            user), ``part`` (of the prediction, in units of a rating) and, if known, ``title``. The
            sum of all parts, by which the prediction differs from the biases alone, is in
            ``attrs["product"]``, the prediction in ``attrs["score"]``.

        Raises
        ------
        InputError
            If user or item is unknown, the dataset is not found, or the model was not trained by
            als on explicit ratings, whose equations this follows from.
        """
        return explained(self, user, item)

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

    @python_words()
    def _fold_in(self, side: Side, ratings: Mapping[Any, float]) -> FoldedIn:
        fixed = self.rows(side.other)
        rows = fixed.rows(list(ratings), unknown="error").astype(np.int32)
        values = np.array(list(ratings.values()), dtype=np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"ratings must be finite numbers: {dict(ratings)}")
        dtype, rank = fixed.state.factors.dtype, fixed.state.factors.shape[1]
        unknown = Factors(np.zeros(1, dtype), np.zeros((1, rank), dtype))
        order = np.argsort(rows)
        solved = self.solver.solve(side, rows[order], values[order], unknown)
        bias = solved.bias[0] if len(rows) else self.rows(side).mean_bias
        return FoldedIn(self, side, float(bias), solved.factors[0], rows)

    def scores(self, side: Side, one: Factors) -> np.ndarray:
        """Return the predicted ratings of one row and every row of the other side."""
        return scores_of_all(one, self.rows(side.other).state, mean=self.manifest.global_mean)

    @python_words()
    def similar(
        self,
        side: Side,
        identifier: Any,
        k: int = 10,
        *,
        least_ratings: int = 0,
        measure: Measure = "cosine",
    ) -> pd.DataFrame:
        """Return the rows of a side whose factors are most similar, as `similar_items`."""
        return most_similar(self, side, identifier, k, least_ratings=least_ratings, measure=measure)

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

    def rated_rows(self, side: Side, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the other side that a row has training ratings of, and the ratings."""
        return rated_rows(self.training_data(side), side, row)

    def training_data(self, side: Side) -> Dataset:
        """Return the dataset; raise InputError if it is not found."""
        if self.dataset is None:
            raise InputError(
                f"the training ratings of {side.name} are neither in the model nor at "
                f"{self.manifest.dataset['path']}; name their dataset with --dataset, or recommend "
                "with --seen"
            )
        return self.dataset
