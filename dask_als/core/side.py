"""The two sides of a rating, users and items; all code between files and commands takes either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SideName = Literal["users", "items"]


@dataclass(frozen=True)
class Side:
    """One side of the ratings: its rows are solved while the other side is fixed.

    Attributes
    ----------
    name : str
        Plural, as in file and task names: ``users`` or ``items``.
    singular : str
        As in column names: ``user`` or ``item``.
    """

    name: SideName
    singular: str

    @property
    def other(self) -> Side:
        """The side that is fixed while this one is solved."""
        return ITEMS if self is USERS else USERS

    @property
    def ratings_directory(self) -> str:
        """The directory of a dataset with the ratings partitioned by this side."""
        return f"by_{self.singular}"

    def __reduce__(self) -> tuple[object, ...]:
        return side_named, (self.name,)


USERS = Side("users", "user")
ITEMS = Side("items", "item")
SIDES = (USERS, ITEMS)


def side_named(name: SideName) -> Side:
    """Return the side with a name; there is one object for each side in a process."""
    return {side.name: side for side in SIDES}[name]
