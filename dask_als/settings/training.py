"""Settings of a training: the model, its checkpoints, and early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from dask_als.core.side import SIDES, Side, SideName
from dask_als.settings.checks import (
    plain_numbers,
    require,
    require_choice,
    require_finite,
    require_whole,
)

DEFAULT_EPOCHS = 15
DEFAULT_RANK = 64
GIBBS_RANK = 32
_MOST_ATTRIBUTES_A_ROW = 8
# Default of rank and epochs: `TrainSettings` replaces it by a number that depends on the method.
BY_METHOD = cast(int, None)


@dataclass(frozen=True)
class Regularization:
    """The penalty of large biases and factors on one side.

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
        Length of a factor vector; by default 64, with gibbs 32.
    epochs : int
        How often each side is solved; by default 15, with gibbs burn_in + samples.
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
        Whether these weights are the same for all rows, or multiplied by a row's number of ratings.
    center : bool
        Whether the mean of the training ratings is subtracted before training.
    dtype : {"float32", "float64"}
        Type of biases and factors, and of the arithmetic.
    seed : int
        Seed of the initial factors.
    first : {"users", "items"}
        The side that each epoch solves first.
    method : {"als", "gibbs"}
        Whether a half-epoch solves each row (als) or draws it from its distribution (gibbs). With
        gibbs, residual precision and bias regularization are drawn; the values set here apply to
        folding in and to the baselines of an evaluation only.
    burn_in, samples : int
        With gibbs, the number of first epochs that are discarded, and of later ones that are
        averaged.
    model_rank : int or None
        With gibbs, the rank of the model, to which the samples are reduced; None is `rank`.
    keep_samples : bool
        With gibbs, whether the model has the factors of all samples, for standard deviations.
    feedback : {"explicit", "implicit"}
        Whether the numbers are ratings, or measure the confidence in a preference (counts of
        events, say). Implicit feedback has no mean and no biases.
    confidence : float
        How much a rating of 1 adds to the confidence of a pair, which is 1 otherwise (alpha); for
        implicit feedback.
    frequency_exponent : float
        The weight of a row's squared factors is multiplied by this power of its total confidence
        (nu); 0 weights all rows equally. For implicit feedback.
    nonnegative : bool
        Whether all factors are at least 0, biases of any sign: each row is set to the best such
        factors. With als.
    implicit_attributes : {"none", "auto", "items", "users", "both"}
        The sides whose rows have attributes: which rows of the other side have ratings of them.
        The prior mean of a row's factors then depends on its attributes. With auto, each side that
        has not many more attributes than rows.
    attributes : bool
        Whether the attributes that the dataset has from files are used, too.

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
    model_rank: int | None = None
    keep_samples: bool = False
    feedback: Literal["explicit", "implicit"] = "explicit"
    confidence: float = 1.0
    frequency_exponent: float = 0.0
    nonnegative: bool = False
    implicit_attributes: Literal["none", "auto", "items", "users", "both"] = "none"
    attributes: bool = True

    def __post_init__(self) -> None:
        plain_numbers(self)
        require_choice(self, "method")
        require_whole("burn_in", self.burn_in, least=0)
        require_whole("samples", self.samples, least=1)
        sampled = self.method == "gibbs"
        self._fill_in("rank", GIBBS_RANK if sampled else DEFAULT_RANK)
        self._fill_in("epochs", self.burn_in + self.samples if sampled else DEFAULT_EPOCHS)
        if sampled:
            all_epochs = self.burn_in + self.samples
            demand = f"left out with gibbs, or burn-in + samples, {all_epochs}"
            require(self.epochs == all_epochs, "epochs", self.epochs, demand)
            for side in SIDES:
                weight = self.regularization(side).factor
                require_finite("factor_regularization", weight, positive=True)
            scaling = self.regularization_scaling
            require(scaling == "plain", "regularization_scaling", scaling, "plain with gibbs")
        if self.model_rank is not None:
            require_whole("model_rank", self.model_rank, least=1)
            demand = "left out with keep-samples, whose model has the factors of all samples"
            require(not self.keep_samples, "model_rank", self.model_rank, demand)
        require_whole("rank", self.rank, least=1)
        require_whole("epochs", self.epochs, least=1)
        require_whole("seed", self.seed, least=0)
        require_finite("residual_precision", self.residual_precision, positive=True)
        for name in ("bias_regularization", "factor_regularization"):
            require_finite(name, getattr(self, name))
            for side in SIDES:
                own = getattr(self, f"{side.singular}_{name}")
                if own is not None:
                    require_finite(f"{side.singular}_{name}", own)
        for name in (
            "regularization_scaling",
            "dtype",
            "first",
            "feedback",
            "implicit_attributes",
        ):
            require_choice(self, name)
        require(
            self.feedback == "explicit" or self.method == "als",
            "feedback",
            self.feedback,
            f"explicit with --method {self.method}",
        )
        require(
            self.feedback == "explicit" or self.regularization_scaling == "plain",
            "regularization_scaling",
            self.regularization_scaling,
            "plain with implicit feedback, which has frequency-exponent",
        )
        require(
            not (self.feedback == "implicit" and self.frequency_exponent)
            or self.implicit_attributes == "none",
            "implicit_attributes",
            self.implicit_attributes,
            "none with a frequency-exponent",
        )
        require(
            self.regularization_scaling == "plain" or self.implicit_attributes == "none",
            "implicit_attributes",
            self.implicit_attributes,
            "none with --regularization-scaling count",
        )
        if self.nonnegative:
            demand = "left out with gibbs, whose draws have any sign; use --method als"
            require(self.method == "als", "nonnegative", True, demand)
            demand = "none with --nonnegative: factors that add to prior means may be negative"
            attributes = self.implicit_attributes
            require(attributes == "none", "implicit_attributes", attributes, demand)
        require_finite("confidence", self.confidence, positive=True)
        require_finite("frequency_exponent", self.frequency_exponent)

    def _fill_in(self, name: str, value: int) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def obstacle_to_row_priors(self) -> str | None:
        """The option with which rows have weights of their own, and so no row priors; or None."""
        if self.nonnegative:
            return "--nonnegative"
        if self.regularization_scaling == "count":
            return "--regularization-scaling count"
        if self.feedback == "implicit" and self.frequency_exponent:
            return "--frequency-exponent"
        return None

    @property
    def n_kept(self) -> int:
        """The number of epochs that the written model averages."""
        return self.samples if self.method == "gibbs" else 1

    def sides_with_attributes(self, n_rows: Mapping[Side, int]) -> tuple[Side, ...]:
        """Return the sides whose rows have attributes, given the rows of each side.

        A side has an attribute for each row of the other. Of many more weights than rows, the prior
        outweighs the rows in the draw of their precision: `auto` leaves such a side out.
        """
        wanted = self.implicit_attributes
        fitting = tuple(
            side for side in SIDES if n_rows[side.other] <= _MOST_ATTRIBUTES_A_ROW * n_rows[side]
        )
        if wanted == "auto":
            return fitting
        return tuple(side for side in SIDES if wanted in (side.name, "both"))

    @property
    def reduced_rank(self) -> int | None:
        """The rank to which samples are cut down; None if they are not."""
        if self.method != "gibbs" or self.keep_samples:
            return None
        return self.model_rank or self.rank

    def keeps(self, epoch: int) -> bool:
        """Tell whether an epoch is one of the samples that the written model averages."""
        return self.method == "gibbs" and epoch > self.burn_in

    def regularization(self, side: Side) -> Regularization:
        """Return the regularization of a side: its own weights, else the common ones."""
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
    """How often training writes a checkpoint, and how many are kept.

    Attributes
    ----------
    every : int
        Epochs from one checkpoint to the next.
    minutes : float or None
        Also write one when this many minutes have passed since the last.
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
        require_whole("checkpoint_every", self.every, least=1)
        require_whole("checkpoint_keep", self.keep, least=1)
        if self.minutes is not None:
            require_finite("checkpoint_minutes", self.minutes, positive=True)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(CheckpointPolicy):
    """The directory of checkpoints, and whether training resumes from there.

    Attributes
    ----------
    directory : str
        Each checkpoint is a directory in it, a model like any other.
    resume : bool
        Whether to resume from the newest checkpoint, if there is one.
    """

    directory: str
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """When training stops before the last epoch; by default, never.

    Attributes
    ----------
    flat : float or None
        Stop when an epoch raises the objective by less than this fraction of its magnitude.
    patience : int or None
        Stop when this many epochs in a row have not lowered the held-out RMSE, and keep the model
        of the epoch with the lowest. Needs held-out ratings.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    flat: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        if self.flat is not None:
            require_finite("stop_when_flat", self.flat, positive=True)
        if self.patience is not None:
            require_whole("patience", self.patience, least=1)
