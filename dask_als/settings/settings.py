"""What a person can set, checked where it is made."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from dask_als.core import typed_tables
from dask_als.core.side import SIDES, Side, SideName
from dask_als.errors import InputError
from dask_als.settings.credentials import looks_like_credential

DEFAULT_EPOCHS = 15
DEFAULT_RANK = 64
GIBBS_RANK = 32
# The default of a whole number that depends on other settings and is there once they are made.
BY_METHOD: Any = None
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


@dataclass(frozen=True)
class Regularization:
    """What weighs against large biases and factors on one side.

    Attributes
    ----------
    bias, factor : float
        Weight of each squared bias and each squared factor (gamma, tau).
    by_count : bool
        Whether both are multiplied by the row's number of training ratings.
    """

    bias: float
    factor: float
    by_count: bool


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a model is trained.

    Attributes
    ----------
    rank : int
        Length of a factor vector. None makes it 64, with gibbs 32.
    epochs : int
        How often each side is solved. None makes it 15, with gibbs the burn-in and the samples.
    residual_precision : float
        Weight of the squared errors (lambda).
    bias_regularization : float
        Weight of the squared biases (gamma).
    factor_regularization : float
        Weight of the squared factors (tau).
    user_bias_regularization, item_bias_regularization : float or None
        The same for one side alone; None is `bias_regularization`.
    user_factor_regularization, item_factor_regularization : float or None
        The same for one side alone; None is `factor_regularization`.
    regularization_scaling : {"plain", "count"}
        Whether these weights hold for each row alike, or are multiplied by its number of ratings.
    center : bool
        Whether the mean of the training ratings is taken out before training.
    dtype : {"float32", "float64"}
        Type of biases and factors, and of the arithmetic.
    seed : int
        Seed of the factors that training starts from.
    first : {"users", "items"}
        The side that each epoch solves first.
    method : {"als", "gibbs"}
        How a half-epoch comes from its normal equations to new biases and factors, see `methods`.
        With gibbs, residual precision and bias regularization are drawn, not set: what is set
        here holds for folding in, and for the baselines of an evaluation.
    burn_in, samples : int
        With gibbs, the first epochs, which are not kept, and those after them, which are.
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

    rank: int = BY_METHOD
    epochs: int = BY_METHOD
    residual_precision: float = 1.0
    bias_regularization: float = 3.0
    factor_regularization: float = 12.0
    user_bias_regularization: float | None = None
    item_bias_regularization: float | None = None
    user_factor_regularization: float | None = None
    item_factor_regularization: float | None = None
    regularization_scaling: Literal["plain", "count"] = "plain"
    center: bool = True
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = 0
    first: SideName = "users"
    method: Literal["als", "gibbs"] = "als"
    burn_in: int = 15
    samples: int = 40
    feedback: Literal["explicit", "implicit"] = "explicit"
    confidence: float = 1.0
    frequency_exponent: float = 0.0

    def __post_init__(self) -> None:
        _require(self.method in ("als", "gibbs"), "method", self.method, "als or gibbs")
        _require_whole("burn_in", self.burn_in, least=0)
        _require_whole("samples", self.samples, least=1)
        sampled = self.method == "gibbs"
        self._fill_in("rank", GIBBS_RANK if sampled else DEFAULT_RANK)
        self._fill_in("epochs", self.burn_in + self.samples if sampled else DEFAULT_EPOCHS)
        if sampled:
            all_epochs = self.burn_in + self.samples
            demand = f"left out with gibbs, or burn-in + samples, {all_epochs}"
            _require(self.epochs == all_epochs, "epochs", self.epochs, demand)
            for side in SIDES:
                weight = self.regularization(side).factor
                _require_finite("factor_regularization", weight, positive=True)
            scaling = self.regularization_scaling
            _require(scaling == "plain", "regularization_scaling", scaling, "plain with gibbs")
        _require_whole("rank", self.rank, least=1)
        _require_whole("epochs", self.epochs, least=1)
        _require_whole("seed", self.seed, least=0)
        _require_finite("residual_precision", self.residual_precision, positive=True)
        for name in ("bias_regularization", "factor_regularization"):
            _require_finite(name, getattr(self, name))
            for side in SIDES:
                own = getattr(self, f"{side.singular}_{name}")
                if own is not None:
                    _require_finite(f"{side.singular}_{name}", own)
        _require(
            self.regularization_scaling in ("plain", "count"),
            "regularization_scaling",
            self.regularization_scaling,
            "plain or count",
        )
        _require(self.dtype in ("float32", "float64"), "dtype", self.dtype, "float32 or float64")
        _require(self.first in ("users", "items"), "first", self.first, "users or items")
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
        _require(
            self.feedback == "explicit" or self.regularization_scaling == "plain",
            "regularization_scaling",
            self.regularization_scaling,
            "plain with implicit feedback, which has frequency-exponent",
        )
        _require_finite("confidence", self.confidence, positive=True)
        _require_finite("frequency_exponent", self.frequency_exponent)

    def _fill_in(self, name: str, value: int) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def n_kept(self) -> int:
        """How many epochs' models the one that is written is made of."""
        return self.samples if self.method == "gibbs" else 1

    def keeps(self, epoch: int) -> bool:
        """Return whether the model after an epoch is kept, for the average at the end."""
        return self.method == "gibbs" and epoch > self.burn_in

    def regularization(self, side: Side) -> Regularization:
        """Return what holds for one side: its own weights, else the common ones."""
        bias = getattr(self, f"{side.singular}_bias_regularization")
        factor = getattr(self, f"{side.singular}_factor_regularization")
        return Regularization(
            self.bias_regularization if bias is None else bias,
            self.factor_regularization if factor is None else factor,
            self.regularization_scaling == "count",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """How often training writes down its state, and how much of it is kept.

    Attributes
    ----------
    every : int
        Epochs from one checkpoint to the next.
    minutes : float or None
        Write one as well when so many minutes have passed.
    keep : int
        How many of the newest are kept.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    every: int = 10
    minutes: float | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        _require_whole("checkpoint_every", self.every, least=1)
        _require_whole("checkpoint_keep", self.keep, least=1)
        if self.minutes is not None:
            _require_finite("checkpoint_minutes", self.minutes, positive=True)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(CheckpointPolicy):
    """Where checkpoints are as well, and whether training goes on from there.

    Attributes
    ----------
    directory : str
        Each checkpoint is a directory in it, a model like any other.
    resume : bool
        Go on from the newest one, if there is one.
    """

    directory: str
    resume: bool = False


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


@dataclass(frozen=True, kw_only=True)
class LocalSize:
    """A cluster on this machine: its size, and who may use it.

    Attributes
    ----------
    workers : int
        Processes.
    threads : int or None
        Of each of them; None shares out all cores.
    memory : str
        Limit of each of them, like 4GiB.
    private : bool
        Let no other user of this machine see it or run code on it.
    """

    workers: int = 1
    threads: int | None = None
    memory: str = "auto"
    private: bool = True

    def __post_init__(self) -> None:
        _require_whole("workers", self.workers, least=1)
        _require_whole("threads", 1 if self.threads is None else self.threads, least=1)


@dataclass(frozen=True, kw_only=True)
class KubernetesSize:
    """A cluster on Kubernetes, and the storage that its pods share.

    Attributes
    ----------
    image : str
        The image of runner, scheduler and workers, made by ``k8s/Dockerfile``.
    workers : int
        Pods.
    threads : int
        Of each of them, and the most processors it may use.
    memory : str
        Of each of them, as Kubernetes writes it, like 4Gi.
    cpu : str or None
        Processors that each of them asks for, like 500m; None asks for one a thread.
    namespace : str
    service_account : str
        Of all pods; it needs no rights.
    volume_claim : str
        The persistent volume claim that all pods mount; empty where all paths are object stores.
    volume_path : str
        Where it is mounted; relative paths of a job are below it.
    node_selectors : dict of str to str
        Labels that a node must have.
    environment : dict of str to str
        Variables of all pods; none that looks like a credential.
    secrets : dict of str to str
        Variables of all pods that nobody may read: they go into a Secret of the job, and are never
        shown. ``${NAME}`` stands for a variable of the environment that the job is submitted from.
    secret_names : tuple of str
        Secrets of the namespace that are there already: each key is a variable of all pods.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    image: str = "dask-als:0.1.0"
    workers: int = 2
    threads: int = 1
    memory: str = "4Gi"
    cpu: str | None = None
    namespace: str = "dask-als"
    service_account: str = "dask-als-job"
    volume_claim: str = "dask-als"
    volume_path: str = "/data"
    node_selectors: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(
        default_factory=dict, repr=False, metadata={typed_tables.SECRET: True}
    )
    secret_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.image), "image", self.image, "the name of an image")
        _require_whole("workers", self.workers, least=1)
        _require_whole("threads", self.threads, least=1)
        memory = re.fullmatch(r"[0-9]+([KMGT]i?)?", self.memory)
        _require(memory is not None, "memory", self.memory, "as Kubernetes writes it, like 4Gi")
        cpu = re.fullmatch(r"[0-9]+m|[0-9]+(\.[0-9]+)?", self.cpu or "1")
        _require(cpu is not None, "cpu", self.cpu, "as Kubernetes writes it, like 2 or 500m")
        _require(self.volume_path.startswith("/"), "volume_path", self.volume_path, "absolute")
        self._check_credentials()

    def _check_credentials(self) -> None:
        """Check what may be secret; no message has a value."""
        for name, value in self.environment.items():
            if name in self.secrets:
                raise InputError(f"{name} is both in environment and in secrets; keep the secret")
            if looks_like_credential(name, value):
                raise InputError(
                    f"environment.{name} looks like a credential, and who may see the job can read "
                    "its environment; put it into [cluster.kubernetes.secrets], or name a Secret "
                    "that holds it in secret_names"
                )
        for name, value in self.secrets.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
                raise InputError(
                    f"the secret {name!r} can be no environment variable: its name must be "
                    "letters, digits and _, and its value has no null byte"
                )
        for name in self.secret_names:
            known = re.fullmatch(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?", name)
            _require(known is not None, "secret_names", name, "names of Secrets, like aws")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What a model is measured by.

    Attributes
    ----------
    k : int
        Length of the ranked lists.
    relevant_from : float or None
        The least held-out rating that makes an item relevant to its user; None is any.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    k: int = 10
    relevant_from: float | None = None

    def __post_init__(self) -> None:
        _require_whole("k", self.k, least=1)
        if self.relevant_from is not None:
            is_finite = math.isfinite(self.relevant_from)
            _require(is_finite, "relevant_from", self.relevant_from, "a finite number")


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """How settings are searched for.

    Attributes
    ----------
    trials : int
        How many combinations of settings are tried.
    minutes : float or None
        Start no more of them after so long.
    folds : int
        Parts of the training ratings, each of which is held out once.
    epochs : int
        The most epochs of a model that is trained from random factors.
    at_once : int
        Trials that are under way at the same time.
    k : int
        Length of the ranked lists that settings for implicit feedback are measured by.
    seed : int
        Seed of search, folds and first factors.
    method : {"als", "gibbs", "any"}
        What is tried with explicit feedback.
    feedback : {"explicit", "implicit"}
        What the ratings are; decides the measure, see `tune`.

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
            _require_whole(name, getattr(self, name), least=1)
        _require_whole("folds", self.folds, least=2)
        _require_whole("seed", self.seed, least=0, most=2**32 - 1)
        if self.minutes is not None:
            _require_finite("minutes", self.minutes, positive=True)
        _require(self.method in ("als", "gibbs", "any"), "method", self.method, "als, gibbs or any")
        _require(
            self.feedback in ("explicit", "implicit"),
            "feedback",
            self.feedback,
            "explicit or implicit",
        )
        _require(
            self.feedback == "explicit" or self.method != "gibbs",
            "method",
            self.method,
            "als or any with implicit feedback",
        )


@dataclass(frozen=True, kw_only=True)
class RecommendSettings:
    """What is recommended to whom.

    Attributes
    ----------
    side : {"users", "items"}
        Who gets recommendations, of the other side.
    k : int
        How many, at most.
    seen : bool
        Whether what has a training rating may be among them.
    rows_at_once : int
        The most rows that a task searches for; its memory grows with them.
    std : bool
        Whether the standard deviation of each rating is given, too; of a model of samples.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    side: SideName = "users"
    k: int = 10
    seen: bool = False
    rows_at_once: int = 65_536
    std: bool = False

    def __post_init__(self) -> None:
        _require(self.side in ("users", "items"), "side", self.side, "users or items")
        _require_whole("k", self.k, least=1)
        _require_whole("rows_at_once", self.rows_at_once, least=1)
