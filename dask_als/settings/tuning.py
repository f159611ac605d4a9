"""Settings of a search for hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dask_als.settings.checks import require, require_choice, require_finite, require_whole


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """How settings are searched for.

    Attributes
    ----------
    trials : int
        Number of combinations of settings that are tried.
    minutes : float or None
        No trial starts after this time.
    folds : int
        Number of parts of the training ratings, each of which is held out once.
    epochs : int
        The maximum number of epochs of a model that is trained from random factors.
    at_once : int
        Number of trials that run at the same time.
    k : int
        Length of the ranked lists by which settings for implicit feedback are measured.
    seed : int
        Seed of search, folds and initial factors.
    method : {"als", "gibbs", "any"}
        The methods that are tried with explicit feedback.
    feedback : {"explicit", "implicit"}
        The kind of ratings; it decides the measure, see `tune`.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    trials: int = 30
    minutes: float | None = None
    folds: int = 5
    epochs: int = 20
    at_once: int = 2
    k: int = 10
    seed: int = 0
    method: Literal["als", "gibbs", "any"] = "any"
    feedback: Literal["explicit", "implicit"] = "explicit"

    def __post_init__(self) -> None:
        for name in ("trials", "epochs", "at_once", "k"):
            require_whole(name, getattr(self, name), least=1)
        require_whole("folds", self.folds, least=2)
        require_whole("seed", self.seed, least=0, most=2**32 - 1)
        if self.minutes is not None:
            require_finite("minutes", self.minutes, positive=True)
        require_choice(self, "method")
        require_choice(self, "feedback")
        require(
            self.feedback == "explicit" or self.method != "gibbs",
            "method",
            self.method,
            "als or any with implicit feedback",
        )
