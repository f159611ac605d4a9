"""A trained model in memory: predictions, recommendations, fold-in; it needs no cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dask_als.core.blocks import Factors
from dask_als.core.side import ITEMS, USERS, Side
from dask_als.core.wording import python_words
from dask_als.data.frames import table_of
from dask_als.errors import InputError
from dask_als.model.explain import explained
from dask_als.model.folded_in import FoldedIn
from dask_als.model.ids import Unknown, is_single, listed
from dask_als.model.in_memory import InMemoryModel
from dask_als.model.lists import most_similar, recommended
from dask_als.model.pairs import predicted_pairs
from dask_als.model.similarity import Measure
from dask_als.settings.data import Columns
from dask_als.settings.evaluation import EvaluateSettings

if TYPE_CHECKING:
    from dask_als.evaluation.results import Evaluation

    Id = int | str | np.integer[Any]
    Ids = Id | Sequence[Any] | np.ndarray | pd.Series[Any] | pd.Index[Any]


class ALSModel(InMemoryModel):
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

    # A single id is one of `Ids`, too: the first signature that matches counts.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, users: Id, items: Id, *, std: Literal[False] = False, unknown: Unknown = "warn"
    ) -> float: ...
    @overload
    def predict(
        self, users: Ids, items: Ids, *, std: Literal[False] = False, unknown: Unknown = "warn"
    ) -> NDArray[np.float64]: ...
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, users: Id, items: Id, *, std: Literal[True], unknown: Unknown = "warn"
    ) -> tuple[float, float]: ...
    @overload
    def predict(
        self, users: Ids, items: Ids, *, std: Literal[True], unknown: Unknown = "warn"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    @python_words()
    def predict(
        self, users: Ids, items: Ids, *, std: bool = False, unknown: Unknown = "warn"
    ) -> (
        float
        | NDArray[np.float64]
        | tuple[float, float]
        | tuple[NDArray[np.float64], NDArray[np.float64]]
    ):
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
        predicted = self.scores(user_rows, item_rows)
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
        wanted = replace(columns, rating=None, time=None, no_time=True)
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
        its = self.ratings_of(USERS, self.users.row(user))
        items, ratings = its.rated, its.ratings
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
            ``attrs["product"]``, the prediction in ``attrs["score"]``. In a compact model of
            gibbs, the product includes what the prior of a new user predicts.

        Raises
        ------
        InputError
            If user or item is unknown, the dataset is not found, or the predictions of the model
            are not linear in a user's ratings.
        """
        return explained(self, user, item)

    def fold_in(
        self, ratings: Mapping[Any, float], *, weights: Mapping[Any, float] | None = None
    ) -> FoldedIn:
        """Solve a new user from their ratings, with the same kernel as in training.

        Parameters
        ----------
        ratings : mapping of item id to rating
            Of items in the model; others are an error.
        weights : mapping of item id to weight, optional
            How often the squared error of a rating counts; 1 where there is none.

        Raises
        ------
        InputError
            If an item is unknown, a rating is not a finite number, or a weight is not a finite
            number above 0 or is of another item.
        """
        return self._fold_in(USERS, ratings, weights)

    def fold_in_item(
        self, ratings: Mapping[Any, float], *, weights: Mapping[Any, float] | None = None
    ) -> FoldedIn:
        """Solve a new item from its ratings by user id, as `fold_in`."""
        return self._fold_in(ITEMS, ratings, weights)

    @python_words()
    def _fold_in(
        self, side: Side, ratings: Mapping[Any, float], weights: Mapping[Any, float] | None
    ) -> FoldedIn:
        fixed = self.rows(side.other)
        rows = fixed.rows(list(ratings), unknown="error").astype(np.int32)
        values = np.array(list(ratings.values()), dtype=np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"ratings must be finite numbers: {dict(ratings)}")
        dtype, rank = fixed.state.factors.dtype, fixed.state.factors.shape[1]
        unknown = Factors(np.zeros(1, dtype), np.zeros((1, rank), dtype))
        order = np.argsort(rows)
        counts = None if weights is None else _weights_of(ratings, weights)[order]
        solved = self.solver.solve(side, rows[order], values[order], unknown, counts)
        bias = solved.bias[0] if len(rows) else self.rows(side).mean_bias
        return FoldedIn(self, side, float(bias), solved.factors[0], rows)

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


def _weights_of(ratings: Mapping[Any, float], weights: Mapping[Any, float]) -> np.ndarray:
    """Return the weight of each rating; raise InputError if one cannot be used."""
    others = [identifier for identifier in weights if identifier not in ratings]
    if others:
        raise InputError(f"there is a weight and no rating of {others[0]!r}")
    with np.errstate(over="ignore"):
        found = np.array([weights.get(identifier, 1.0) for identifier in ratings], np.float32)
    if not (np.isfinite(found) & (found > 0)).all():
        raise InputError(f"weights must be finite numbers above 0: {dict(weights)}")
    return found
