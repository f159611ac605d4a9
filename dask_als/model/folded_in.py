"""A new user or item, solved from its ratings with a model fixed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dask_als.core.blocks import Factors
from dask_als.core.side import Side

if TYPE_CHECKING:
    from dask_als.model.model import ALSModel


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

    model: ALSModel
    side: Side
    bias: float
    factors: np.ndarray
    rated: np.ndarray

    @cached_property
    def scores(self) -> np.ndarray:
        """Predicted rating of every row of the fixed side."""
        state = Factors(np.array([self.bias]), self.factors[None, :])
        return self.model.scores(self.side, state, 0)

    def recommend(self, k: int = 10) -> pd.DataFrame:
        """Return the best unrated rows of the other side, like `ALSModel.recommend`."""
        one = Factors(np.array([self.bias], self.factors.dtype), self.factors[None, :])
        return self.model.best_for(self.side, one, k, without=self.rated)
