"""One rating for each pair of user and item, and the rows that it was made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dask_als.data.rating_weights import Decay, merged_weights, weights_of_rows
from dask_als.data.split import Pairs, sorted_pairs
from dask_als.settings.data import PrepareSettings

RatingColumns = dict[str, np.ndarray]
"""Columns ``user``, ``item``, ``rating`` and, if the source has them, ``time`` and ``weight``.

Of merged ratings, ``weight`` is the one that counts. If it decays, ``given`` is that of the source.
"""


@dataclass(frozen=True)
class OneRating:
    """One rating for each pair of a partition.

    Attributes
    ----------
    columns : dict of str to ndarray
        One row for each pair, sorted by user and item.
    repeated : dict of str to ndarray
        All rows of the pairs that have several, sorted by user and item; the rows of one pair are
        in the order of the source.
    n_merged : int
        Rows that another row of the same pair replaces.
    duplicate : (int, int) or None
        User and item index of a pair that has several rows.
    overflow : (int, int) or None
        User and item index of a pair whose ratings add up to more than float32 holds. Its rating
        is set to 0.
    """

    columns: RatingColumns
    repeated: RatingColumns
    n_merged: int
    duplicate: tuple[int, int] | None
    overflow: tuple[int, int] | None


def one_rating_per_pair(
    rows: RatingColumns, settings: PrepareSettings, decay: Decay | None = None
) -> OneRating:
    """Merge the rows of each pair by the rule for duplicates.

    Parameters
    ----------
    rows : dict of str to ndarray
        In the order of the source.
    decay : Decay, optional
        How the weights of ratings decay.
    """
    pairs = sorted_pairs(rows["user"], rows["item"])
    kept = pairs.last(rows.get("time"))
    columns = dict(rows)
    if not pairs.are_rows:
        columns = {name: values[kept] for name, values in rows.items()}
    weights = weights_of_rows(rows.get("weight"), rows.get("time"), decay)
    if settings.duplicates == "mean":
        columns["rating"] = pairs.mean(rows["rating"])
    elif settings.duplicates == "sum":
        with np.errstate(over="ignore"):
            columns["rating"] = pairs.sum(rows["rating"])
    if weights is not None:
        if decay is not None and "weight" in rows:
            columns["given"] = columns["weight"]
        columns["weight"] = weights[kept]
        if settings.duplicates in ("mean", "sum"):
            merged = merged_weights(pairs, rows["rating"], weights, settings.duplicates)
            with np.errstate(over="ignore"):
                columns["rating"][pairs.several], columns["weight"][pairs.several] = merged
    beyond = np.flatnonzero(~np.isfinite(columns["rating"]))
    overflow = None
    if len(beyond):
        overflow = _pair(columns, beyond[0])
        columns["rating"][beyond] = 0
    return OneRating(
        columns,
        _repeated(rows, pairs),
        pairs.n_merged,
        _pair(columns, pairs.several[0]) if pairs.n_merged else None,
        overflow,
    )


def without_held_out(train: OneRating, test: OneRating) -> OneRating:
    """Drop the training ratings of pairs that are held out; count them as merged."""
    is_held_out = _is_in(train.columns, test.columns)
    if not is_held_out.any():
        return train
    # The rows of pairs that have several are among the repeated rows already.
    columns = as_in_source(train.columns, train.repeated)
    dropped = {name: values[is_held_out] for name, values in columns.items()}
    single = ~_is_in(dropped, train.repeated)
    repeated = {
        name: np.concatenate([train.repeated[name], values[single]])
        for name, values in dropped.items()
    }
    order = np.argsort(pair_keys(repeated), kind="stable")
    return replace(
        train,
        columns={name: values[~is_held_out] for name, values in train.columns.items()},
        repeated={name: values[order] for name, values in repeated.items()},
        n_merged=train.n_merged + int(is_held_out.sum()),
        duplicate=train.duplicate or _pair(dropped, 0),
    )


def as_in_source(columns: RatingColumns, rows: RatingColumns) -> RatingColumns:
    """Return the columns of merged ratings that rows of the source have, with their weights."""
    given = {"weight": columns["given"]} if "given" in columns else {}
    return {name: given.get(name, columns[name]) for name in rows}


def pair_keys(columns: RatingColumns) -> np.ndarray:
    """Return a number for each row that orders as user and item do, int64."""
    keys: np.ndarray = columns["user"].astype(np.int64) << 32 | columns["item"]
    return keys


def _is_in(columns: RatingColumns, others: RatingColumns) -> np.ndarray:
    """Return which rows are of a pair that other rows have, too."""
    return np.isin(pair_keys(columns), pair_keys(others))


def _repeated(rows: RatingColumns, pairs: Pairs) -> RatingColumns:
    if not pairs.n_merged:
        return {name: values[:0] for name, values in rows.items()}
    position = np.sort(pairs.order[np.repeat(pairs.counts > 1, pairs.counts)])
    several = {name: values[position] for name, values in rows.items()}
    order = np.argsort(pair_keys(several), kind="stable")
    return {name: values[order] for name, values in several.items()}


def _pair(columns: RatingColumns, place: int) -> tuple[int, int]:
    """Return the user and item index of a rating."""
    return int(columns["user"][place]), int(columns["item"][place])
