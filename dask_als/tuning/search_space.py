"""The search space: the settings that trials are drawn from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dask_als.core.side import SIDES
from dask_als.data.dataset import Dataset
from dask_als.settings.training import TrainSettings
from dask_als.settings.tuning import TuneSettings

if TYPE_CHECKING:
    import optuna


RANKS = (4, 8, 16, 32, 64)


class SearchSpace:
    """The distribution of settings.

    A weight that is multiplied by a power of a row's count is drawn as its product in a row of
    typical count, so that its range does not depend on the power.
    """

    def __init__(self, settings: TuneSettings, dataset: Dataset) -> None:
        self._settings = settings
        self._typical = dataset.n_ratings / math.sqrt(dataset.users.n_rows * dataset.items.n_rows)

    def defaults(self) -> list[TrainSettings]:
        """Return the defaults of each method that is searched, those of `train` first."""
        settings = self._settings
        common: dict[str, Any] = {"feedback": settings.feedback, "seed": settings.seed}
        found = []
        if settings.method != "gibbs":
            found.append(TrainSettings(**common, epochs=settings.epochs))
        if settings.method != "als" and settings.feedback == "explicit":
            found.append(TrainSettings(**common, method="gibbs"))
        return found

    def parameters_of(self, default: TrainSettings) -> dict[str, Any]:
        """Return the parameters of the search that give the default settings."""
        rank = default.rank
        if default.method == "gibbs":
            return {"method": "gibbs", "rank": rank, "prior": default.factor_regularization}
        if default.feedback == "implicit":
            return {
                "rank": rank,
                "confidence": default.confidence,
                "frequency_exponent": default.frequency_exponent,
                "factor": default.factor_regularization,
            }
        return {
            "method": "als",
            "rank": rank,
            "scaling": "plain",
            "user_bias": default.bias_regularization,
            "item_bias": default.bias_regularization,
            "factor": default.factor_regularization,
        }

    def draw(self, trial: optuna.Trial) -> TrainSettings:
        """Draw settings; the trial's path starts at their factor regularization."""
        settings = self._settings
        common: dict[str, Any] = {"feedback": settings.feedback, "seed": settings.seed}
        if settings.feedback == "implicit":
            return TrainSettings(**common, **self._implicit(trial), epochs=settings.epochs)
        methods = ["als", "gibbs"] if settings.method == "any" else [settings.method]
        if trial.suggest_categorical("method", methods) == "gibbs":
            return TrainSettings(
                **common,
                method="gibbs",
                rank=trial.suggest_categorical("rank", RANKS),
                factor_regularization=trial.suggest_float("prior", 1.0, 100.0, log=True),
            )
        return TrainSettings(**common, **self._explicit(trial), epochs=settings.epochs)

    def _explicit(self, trial: optuna.Trial) -> dict[str, Any]:
        scaling = trial.suggest_categorical("scaling", ["plain", "count"])
        unit = self._typical if scaling == "count" else 1.0
        # One for both sides: u c and v / c are the same model, so only the product matters.
        factor = trial.suggest_float("factor", 1.0, 30.0, log=True) / unit
        user_bias, item_bias = (
            trial.suggest_float(f"{side.singular}_bias", 0.1, 30.0, log=True) / unit
            for side in SIDES
        )
        return {
            "rank": trial.suggest_categorical("rank", RANKS),
            "regularization_scaling": scaling,
            "user_bias_regularization": user_bias,
            "item_bias_regularization": item_bias,
            "factor_regularization": factor,
        }

    def _implicit(self, trial: optuna.Trial) -> dict[str, Any]:
        confidence = trial.suggest_float("confidence", 0.5, 64.0, log=True)
        exponent = trial.suggest_float("frequency_exponent", 0.0, 1.0)
        unit = (self._typical * (1 + confidence)) ** exponent
        return {
            "rank": trial.suggest_categorical("rank", RANKS),
            "confidence": confidence,
            "frequency_exponent": exponent,
            "factor_regularization": trial.suggest_float("factor", 1.0, 300.0, log=True) / unit,
        }
