"""Predictions for a table of pairs of users and items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dask_als.core.side import SIDES
from dask_als.model.ids import Unknown, report_unknown
from dask_als.model.rows import UNKNOWN

if TYPE_CHECKING:
    from dask_als.model.in_memory import InMemoryModel


def predicted_pairs(
    model: InMemoryModel, pairs: pa.Table, *, clip: bool = False, unknown: Unknown = "ignore"
) -> pa.Table:
    """Predict the ratings of pairs.

    Parameters
    ----------
    model : ALSModel
    pairs : pyarrow.Table
        Columns ``user`` and ``item``.
    clip : bool, optional
        Whether predictions are clipped to the range of the training ratings.
    unknown : {"warn", "error", "ignore"}, optional

    Returns
    -------
    pyarrow.Table
        Columns ``user_id``, ``item_id``, ``prediction``, ``user_known``, ``item_known``.

    Raises
    ------
    InputError
        If an id is missing or of another type than the model's.
    """
    ids = {
        side: model.rows(side).checked(pairs.column(side.singular).to_pandas()) for side in SIDES
    }
    rows = {side: model.rows(side).rows(ids[side]) for side in SIDES}
    for side in SIDES:
        report_unknown(ids[side], rows[side] == UNKNOWN, side.singular, unknown)
    users, items = (rows[side] for side in SIDES)
    predicted = model.scores(users, items)
    if clip:
        predicted = np.clip(predicted, model.manifest.rating_min, model.manifest.rating_max)
    return pa.table(
        {
            **{f"{side.singular}_id": pa.array(ids[side]) for side in SIDES},
            "prediction": predicted,
            **{f"{side.singular}_known": rows[side] != UNKNOWN for side in SIDES},
        }
    )
