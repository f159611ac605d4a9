"""File names and columns of the MovieLens archives, whose older releases have no headers."""

from __future__ import annotations

import re

_RATINGS = ("userId", "movieId", "rating", "timestamp")
# ml-100k has u.data and its folds u1.base, u1.test, …; ml-1m and ml-10m have ratings.dat.
_COLUMNS = (
    (re.compile(r"u(?:\.data|[1-5ab]\.(?:base|test))|ratings\.dat"), _RATINGS),
    (re.compile(r"u\.item|movies\.dat"), ("movieId", "title")),
)
_TITLES = {"ratings.csv": "movies.csv", "ratings.dat": "movies.dat", "u.data": "u.item"}


def base_name(path: str) -> str:
    """Return the last part of a path."""
    return path.rsplit("/", 1)[-1]


def columns_of(path: str) -> tuple[str, ...] | None:
    """Return the first columns of a MovieLens file without header; None for another file."""
    name = base_name(path)
    return next((columns for pattern, columns in _COLUMNS if pattern.fullmatch(name)), None)


def ratings_among(names: list[str]) -> str | None:
    """Return the file of ratings if the files are those of a MovieLens archive, else None."""
    for ratings in _TITLES:
        found = [name for name in names if base_name(name) == ratings]
        if len(found) == 1 and titles_beside(found[0]) in names:
            return found[0]
    return None


def titles_beside(ratings: str) -> str | None:
    """Return the path that titles have in a MovieLens archive; None for another file."""
    name = base_name(ratings)
    titles = "u.item" if re.fullmatch(r"u[1-5ab]\.(?:base|test)", name) else _TITLES.get(name)
    return None if titles is None else ratings[: len(ratings) - len(name)] + titles
