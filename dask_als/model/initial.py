"""What a model remembers of the model that its training started from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MatchedRows:
    """The rows of one side when training starts from a model of other ids.

    Attributes
    ----------
    known : int
        Rows that the model and the dataset have.
    new : int
        Rows that only the dataset has.
    gone : int
        Rows that only the model has.
    """

    known: int
    new: int
    gone: int


@dataclass(frozen=True)
class InitialModel:
    """The model that a training started from.

    Attributes
    ----------
    path : str
    users, items : MatchedRows
    """

    path: str
    users: MatchedRows
    items: MatchedRows
