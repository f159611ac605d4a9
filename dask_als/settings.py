"""What a person can set, checked where it is made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dask_als.errors import InputError
from dask_als.side import SideName

DEFAULT_TIME = "timestamp"
MOST_PARTITIONS = 2**15 - 1


def _require(condition: bool, name: str, value: object, demand: str) -> None:
    if not condition:
        raise InputError(f"{name.replace('_', '-')} is {value!r}; it must be {demand}")


def _require_whole(name: str, value: object, *, least: int, most: int = 2**63 - 1) -> None:
    in_range = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    _require(in_range, name, value, f"a whole number from {least} to {most}")


def _require_finite(name: str, value: float, *, positive: bool = False) -> None:
    demand = "a positive number" if positive else "zero or a positive number"
    in_range = value > 0 if positive else value >= 0
    _require(math.isfinite(value) and in_range, name, value, demand)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a model is trained.

    Attributes
    ----------
    rank : int
        Length of a factor vector.
    epochs : int
        How often each side is solved.
    residual_precision : float
        Weight of the squared errors (lambda).
    bias_regularization : float
        Weight of the squared biases (gamma).
    factor_regularization : float
        Weight of the squared factors (tau).
    center : bool
        Whether the mean of the training ratings is taken out before training.
    dtype : {"float32", "float64"}
        Type of biases and factors, and of the arithmetic.
    seed : int
        Seed of the factors that training starts from.
    first : {"users", "items"}
        The side that each epoch solves first.
    method : {"als"}
        How a half-epoch comes from its normal equations to new biases and factors, see `methods`.
    feedback : {"explicit", "implicit"}
        Whether the numbers are ratings, or say how sure a preference is (counts of events, say).
        Implicit feedback has no mean and no biases.
    confidence : float
        What a rating of 1 adds to the confidence of a pair, which is 1 without (alpha); for
        implicit feedback.
    frequency_exponent : float
        The weight of a row's squared factors is multiplied by its total confidence to the power of
        this (nu); 0 weighs all rows alike. For implicit feedback.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    rank: int = 64
    epochs: int = 15
    residual_precision: float = 1.0
    bias_regularization: float = 3.0
    factor_regularization: float = 12.0
    center: bool = True
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = 0
    first: SideName = "users"
    method: Literal["als"] = "als"
    feedback: Literal["explicit", "implicit"] = "explicit"
    confidence: float = 1.0
    frequency_exponent: float = 0.0

    def __post_init__(self) -> None:
        _require_whole("rank", self.rank, least=1)
        _require_whole("epochs", self.epochs, least=1)
        _require_whole("seed", self.seed, least=0)
        _require_finite("residual_precision", self.residual_precision, positive=True)
        _require_finite("bias_regularization", self.bias_regularization)
        _require_finite("factor_regularization", self.factor_regularization)
        _require(self.dtype in ("float32", "float64"), "dtype", self.dtype, "float32 or float64")
        _require(self.first in ("users", "items"), "first", self.first, "users or items")
        _require(self.method in ("als",), "method", self.method, "als")
        _require(
            self.feedback in ("explicit", "implicit"),
            "feedback",
            self.feedback,
            "explicit or implicit",
        )
        _require(
            self.feedback == "explicit" or self.method == "als",
            "feedback",
            self.feedback,
            f"explicit with --method {self.method}",
        )
        _require_finite("confidence", self.confidence, positive=True)
        _require_finite("frequency_exponent", self.frequency_exponent)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """Where and how often training writes down its state, and whether it goes on from there.

    Attributes
    ----------
    directory : str
        Each checkpoint is a directory in it, a model like any other.
    every : int
        Epochs from one checkpoint to the next.
    minutes : float or None
        Write one as well when so many minutes have passed.
    keep : int
        How many of the newest are kept.
    resume : bool
        Go on from the newest one, if there is one.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    directory: str
    every: int = 10
    minutes: float | None = None
    keep: int = 2
    resume: bool = False

    def __post_init__(self) -> None:
        _require_whole("checkpoint_every", self.every, least=1)
        _require_whole("checkpoint_keep", self.keep, least=1)
        if self.minutes is not None:
            _require_finite("checkpoint_minutes", self.minutes, positive=True)


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """What ends a training before its last epoch; nothing, unless asked for.

    Attributes
    ----------
    flat : float or None
        Stop when an epoch raises the objective by less than this part of its size.
    patience : int or None
        Stop when so many epochs in a row did not lower the held-out RMSE, and keep the model of
        the epoch with the lowest. Needs held-out ratings.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    flat: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.flat is not None:
            _require_finite("stop_when_flat", self.flat, positive=True)
        if self.patience is not None:
            _require_whole("patience", self.patience, least=1)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The source's names for what a rating is made of.

    Attributes
    ----------
    user, item : str
        Columns of the ids.
    rating : str or None
        Column of the number; None counts every row as an event, a rating of 1.
    time : str or None
        Column of the time; None takes ``timestamp``, if it is there.
    """

    user: str = "userId"
    item: str = "movieId"
    rating: str | None = "rating"
    time: str | None = None

    def __post_init__(self) -> None:
        names = self.names()
        _require(
            len(set(names.values())) == len(names), "columns", list(names.values()), "distinct"
        )

    def names(self) -> dict[str, str]:
        """Return our word -> the source's word, for the columns that are there."""
        words = {"user": self.user, "item": self.item, "rating": self.rating, "time": self.time}
        return {word: name for word, name in words.items() if name is not None}

    def within(self, there: tuple[str, ...]) -> Columns:
        """Return the same columns for a source that has these; the time may be found there."""
        found = DEFAULT_TIME if DEFAULT_TIME in there else None
        return replace(self, time=self.time or found)


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """How a dataset is made from a source.

    Attributes
    ----------
    test_fraction : float
        Share of the ratings held out, 0 (none) to below 1.
    split : {"random", "latest"}
        Held out by a hash of ids and seed, or each user's last ratings by time.
    duplicates : {"last", "mean", "sum", "error"}
        What becomes of several ratings of one item by one user.
    partitions : int or None
        Partitions of each side; None chooses by the number of ratings.
    seed : int
        Seed of the random split.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    test_fraction: float = 0.0
    split: Literal["random", "latest"] = "random"
    duplicates: Literal["last", "mean", "sum", "error"] = "last"
    partitions: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        in_range = math.isfinite(self.test_fraction) and 0 <= self.test_fraction < 1
        _require(in_range, "test_fraction", self.test_fraction, "at least 0 and below 1")
        _require(self.split in ("random", "latest"), "split", self.split, "random or latest")
        _require(
            self.duplicates in ("last", "mean", "sum", "error"),
            "duplicates",
            self.duplicates,
            "last, mean, sum or error",
        )
        if self.partitions is not None:
            _require_whole("partitions", self.partitions, least=1, most=MOST_PARTITIONS)
        _require_whole("seed", self.seed, least=0)

    def split_json(self) -> dict[str, Any] | None:
        """Return the split as plain JSON values; None if nothing is held out."""
        if not self.test_fraction:
            return None
        return {"kind": self.split, "test_fraction": self.test_fraction, "seed": self.seed}
