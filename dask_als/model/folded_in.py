"""A new user or item, solved from its ratings with a model fixed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dask_als.core.blocks import Factors
from dask_als.core.side import Side
from dask_als.model.lists import recommended_to_one
from dask_als.model.scores import scores_of_all

if TYPE_CHECKING:
    from dask_als.model.in_memory import InMemoryModel


@dataclass(frozen=True)
class FoldedIn:
    """A user or item that the model was not trained on, solved from its ratings.

    Attributes
    ----------
    bias : float
    factors : ndarray, shape (rank,)
    rated : ndarray of int
        Rows of the fixed side that it has rated.
    """

    model: InMemoryModel
    side: Side
    bias: float
    factors: np.ndarray
    rated: np.ndarray

    @cached_property
    def scores(self) -> np.ndarray:
        """Predicted rating of every row of the fixed side."""
        return scores_of_all(
            self._state,
            self.model.rows(self.side.other).state,
            mean=self.model.manifest.global_mean,
        )

    def recommend(self, k: int = 10) -> pd.DataFrame:
        """Return the best unrated rows of the other side, like `ALSModel.recommend`."""
        return recommended_to_one(self.model, self.side, self._state, k, without=self.rated)

    @property
    def _state(self) -> Factors:
        return Factors(np.array([self.bias], self.factors.dtype), self.factors[None, :])
