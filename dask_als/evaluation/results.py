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
        RMSE of held-out ratings whose user or item has no training rating; None if there are
        none.
    rmse_described : float or None
        RMSE of those of them whose rows without training ratings have attributes.
    """

    rmse: float
    mae: float
    rmse_clipped: float
    mae_clipped: float
    rmse_cold: float | None
    rmse_described: float | None = None


@dataclass(frozen=True)
class Ranking:
    """Means over the ranked lists of all users with a relevant held-out item.

    Attributes
    ----------
    precision, recall, ndcg, map, hit_rate : float
        As in `dask_als.evaluation.ranking_metrics.measures`.
    coverage : float
        Share of all items that are in at least one list.
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
    """The results of a model and of the baselines on held-out ratings.

    Attributes
    ----------
    settings : EvaluateSettings
    n_test : int
        Held-out ratings; all are predicted.
    n_cold : int
        Those whose user or item has no training rating, so that only biases or means remain, or
        what attributes predict.
    cold_users, cold_items : int
        Users and items without a training rating.
    n_lists : int
        Users with a relevant held-out item.
    held_out_popularity : float
        Mean number of training ratings of a relevant held-out item, to compare
        `Ranking.popularity` with.
    errors : dict of str to Errors
        By predictor: ``model`` (of explicit feedback), ``global mean``, ``biases alone``.
    ranking : dict of str to Ranking
        By predictor: ``model``, ``biases alone``, ``most popular``.
    calibration : Calibration or None
        For a model of samples.
    n_described : int
        Those of the `n_cold` ratings that the model predicts from attributes.
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
    n_described: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)
