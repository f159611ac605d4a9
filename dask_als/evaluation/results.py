"""The results of an evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dask_als.evaluation.calibration import Calibration
from dask_als.settings.evaluation import EvaluateSettings


@dataclass(frozen=True)
class Errors:
    """Errors of predicted ratings, in units of a rating.

    Attributes
    ----------
    rmse, mae : float
        Root of the mean squared error, and mean absolute error.
    rmse_clipped, mae_clipped : float
        The same, with predictions clipped to the range of the training ratings.
    rmse_cold : float or None
        The first, over held-out ratings whose user or item has no training rating; None if there
        are none.
    """

    rmse: float
    mae: float
    rmse_clipped: float
    mae_clipped: float
    rmse_cold: float | None


@dataclass(frozen=True)
class Ranking:
    """Ranked lists of k items for each user with a relevant held-out item, means over users.

    Attributes
    ----------
    precision, recall, ndcg, map, hit_rate : float
        As in `ranking.measures`.
    coverage : float
        Share of all items that are in somebody's list.
    popularity : float
        Mean number of training ratings of an item in a list.
    """

    precision: float
    recall: float
    ndcg: float
    map: float
    hit_rate: float
    coverage: float
    popularity: float


@dataclass(frozen=True)
class Evaluation:
    """What held-out ratings say of a model and of the baselines.

    Attributes
    ----------
    settings : EvaluateSettings
    n_test : int
        Held-out ratings; all of them are predicted.
    n_cold : int
        Those whose user or item has no training rating and is scored by the fallback.
    cold_users, cold_items : int
        How many such users and items there are.
    n_lists : int
        Users with a relevant held-out item.
    held_out_popularity : float
        Mean number of training ratings of a relevant held-out item: what `Ranking.popularity`
        compares with.
    errors : dict of str to Errors
        By what predicts: ``model`` (if of explicit feedback), ``global mean``, ``biases alone``.
    ranking : dict of str to Ranking
        By what ranks: ``model``, ``biases alone``, ``most popular``.
    calibration : Calibration or None
        Of a model of samples.
    """

    settings: EvaluateSettings
    n_test: int
    n_cold: int
    cold_users: int
    cold_items: int
    n_lists: int
    held_out_popularity: float
    errors: dict[str, Errors]
    ranking: dict[str, Ranking]
    calibration: Calibration | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)
