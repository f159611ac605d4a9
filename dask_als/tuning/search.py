"""Search for good settings by cross-validation on a dataset's training ratings.

A trial is a combination of settings, drawn by Optuna's tree-structured Parzen estimator (Bergstra
et al. 2011). It walks along a path of factor regularizations from weak to strong, and each stage
but the first starts from the factors of the one before: a few epochs are enough there. (From strong
to weak would not do: factors that a strong weight has brought to 0 stay there.) A trial that is
worse after some epoch than the median of those before it is given up. The best few are then trained
again from random factors, as `train` would, and the best of these is the result, with the number of
epochs that were best.

The measure is the RMSE over the held-out ratings of all folds, or, with implicit feedback, the NDCG
of ranked lists of what is not in the fold's training ratings, averaged over users and folds.

All trials share the blocks of the folds. The driver goes around the trials that are under way and
takes an epoch from each in turn, so the search depends on the seed and on how many are at once, not
on which task ends first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_als.core.blocks import Block, Factors
from dask_als.core.executor import Executor, Shape
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.core.superaccumulator import as_float, exact_sum
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.evaluation.ranking_metrics import measures
from dask_als.model.recommend import rated_by, typical_norm
from dask_als.model.top_k import candidates, top_k
from dask_als.planning.plan import USABLE, in_words, memory_of_a_worker
from dask_als.settings.training import TrainSettings
from dask_als.settings.tuning import TuneSettings
from dask_als.solvers.base import SolvedSide
from dask_als.training.train import Epoch, Start, random_start
from dask_als.tuning.folds import Fold, FoldTraining, split_into_folds

if TYPE_CHECKING:
    import optuna

_RANKS = (4, 8, 16, 32, 64)
_STAGES = 6
_EPOCHS_OF_A_STAGE = 4
_STEP = math.sqrt(2)
_CONFIRMED = 3
_TRIALS_BEFORE_PRUNING = 5


@dataclass(frozen=True)
class Trial:
    """What was tried, and how good it was.

    Attributes
    ----------
    number : int
        In the order of the search.
    settings : TrainSettings
        The best of the trial's path.
    value : float or None
        The measure by cross-validation; None if no epoch ended.
    pruned : bool
        Whether it was given up.
    """

    number: int
    settings: TrainSettings
    value: float | None
    pruned: bool


@dataclass(frozen=True)
class Tuning:
    """The result of a search.

    Attributes
    ----------
    measure : str
        ``rmse``, the lower the better, or ``ndcg``, the higher the better.
    settings : TrainSettings
        The best, with the epochs that were best.
    value : float
        Its measure by cross-validation, trained from random factors.
    default_value : float
        That of the default settings.
    trials : tuple of Trial
    """

    measure: str
    settings: TrainSettings
    value: float
    default_value: float
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def tune(
    dataset: Dataset,
    executor: Executor,
    settings: TuneSettings,
    *,
    progress: Callable[[int, int, float | None], None] = lambda done, total, best: None,
) -> Tuning:
    """Search for the settings with the best measure by cross-validation.

    Parameters
    ----------
    dataset : Dataset
        Of which training ratings alone are used.
    progress : callable, optional
        Told how many trainings are done, of how many, and the best measure so far.

    Raises
    ------
    InputError
        If Optuna is not installed, the workers have too little memory, or there are too few ratings
        for the folds.
    """
    study = _study(settings)
    check_fits(dataset, settings, executor.shape)
    folds = split_into_folds(dataset, executor, folds=settings.folds, seed=settings.seed)
    measure = Measure(executor, settings)
    space = _Space(settings, dataset)
    defaults = space.defaults()
    for default in defaults:
        study.enqueue_trial(space.parameters_of(default))
    trials: list[Trial] = []
    for trial in _searched(study, space, folds, measure, settings):
        trials.append(trial)
        best = measure.best([its.value for its in trials if its.value is not None])
        progress(len(trials), settings.trials + _CONFIRMED + len(defaults), best)
    chosen = [*defaults, *_candidates(trials, measure)]
    confirmed: list[tuple[TrainSettings, float]] = []
    for candidate in chosen:
        confirmed.append(_confirmed(candidate, folds, measure, settings))
        value = measure.best([its_value for _, its_value in confirmed])
        progress(len(trials) + len(confirmed), len(trials) + len(chosen), value)
    assert value is not None, "the default settings are among them"
    best_settings = next(its for its, its_value in confirmed if its_value == value)
    trials.sort(key=lambda trial: trial.number)
    return Tuning(measure.name, best_settings, value, confirmed[0][1], tuple(trials))


def check_fits(dataset: Dataset, settings: TuneSettings, shape: Shape) -> None:
    """Check that the folds, and the models under way, can fit the workers' memory limit.

    Raises
    ------
    InputError
        If they cannot.
    """
    largest = TrainSettings(rank=max(_RANKS), feedback=settings.feedback)
    one = memory_of_a_worker(dataset, largest, shape)
    need = (
        one.process
        + one.blocks * settings.folds
        + one.states * settings.folds * settings.at_once
        + one.temporaries
    )
    if shape.memory and need > USABLE * shape.memory:
        raise InputError(
            f"a worker would need {in_words(need)} for {settings.folds} folds and "
            f"{settings.at_once} trials at once, and Dask ends it at {USABLE:.0%} of its limit of "
            f"{in_words(shape.memory)}; give fewer --folds, fewer --at-once, more workers or more "
            "--memory"
        )


def _study(settings: TuneSettings) -> optuna.Study:
    try:
        import optuna
    except ImportError:
        raise InputError("tune needs Optuna: pip install 'dask-als[tune]'") from None
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(
            direction="minimize" if settings.feedback == "explicit" else "maximize",
            sampler=optuna.samplers.TPESampler(
                seed=settings.seed, n_startup_trials=max(5, settings.trials // 4)
            ),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_TRIALS_BEFORE_PRUNING),
        )
    finally:
        optuna.logging.set_verbosity(before)


class _Space:
    """Which settings there are to choose from.

    Weights that are multiplied by a power of a row's count are drawn as what they come to in a row
    of typical count, so that their ranges are alike.
    """

    def __init__(self, settings: TuneSettings, dataset: Dataset) -> None:
        self._settings = settings
        self._typical = dataset.n_ratings / math.sqrt(dataset.users.n_rows * dataset.items.n_rows)

    def defaults(self) -> list[TrainSettings]:
        """Return the defaults of each method that is searched, those of `train` first."""
        settings = self._settings
        common: dict[str, Any] = {"feedback": settings.feedback, "seed": settings.seed}
        found = []
        if settings.method != "gibbs":
            found.append(TrainSettings(**common, epochs=settings.epochs))
        if settings.method != "als" and settings.feedback == "explicit":
            found.append(TrainSettings(**common, method="gibbs"))
        return found

    def parameters_of(self, default: TrainSettings) -> dict[str, Any]:
        """Return what the search draws, for the default settings."""
        rank = default.rank
        if default.method == "gibbs":
            return {"method": "gibbs", "rank": rank, "prior": default.factor_regularization}
        if default.feedback == "implicit":
            return {
                "rank": rank,
                "confidence": default.confidence,
                "frequency_exponent": default.frequency_exponent,
                "factor": default.factor_regularization,
            }
        return {
            "method": "als",
            "rank": rank,
            "scaling": "plain",
            "user_bias": default.bias_regularization,
            "item_bias": default.bias_regularization,
            "factor": default.factor_regularization,
        }

    def draw(self, trial: optuna.Trial) -> TrainSettings:
        """Draw settings; the weight of factors is where the trial's path starts."""
        settings = self._settings
        common: dict[str, Any] = {"feedback": settings.feedback, "seed": settings.seed}
        if settings.feedback == "implicit":
            return TrainSettings(**common, **self._implicit(trial), epochs=settings.epochs)
        methods = ["als", "gibbs"] if settings.method == "any" else [settings.method]
        if trial.suggest_categorical("method", methods) == "gibbs":
            return TrainSettings(
                **common,
                method="gibbs",
                rank=trial.suggest_categorical("rank", _RANKS),
                factor_regularization=trial.suggest_float("prior", 1.0, 100.0, log=True),
            )
        return TrainSettings(**common, **self._explicit(trial), epochs=settings.epochs)

    def _explicit(self, trial: optuna.Trial) -> dict[str, Any]:
        scaling = trial.suggest_categorical("scaling", ["plain", "count"])
        unit = self._typical if scaling == "count" else 1.0
        # Not by side: u c and v / c are the same model, so only the product of both weights counts.
        factor = trial.suggest_float("factor", 1.0, 30.0, log=True) / unit
        user_bias, item_bias = (
            trial.suggest_float(f"{side.singular}_bias", 0.1, 30.0, log=True) / unit
            for side in SIDES
        )
        return {
            "rank": trial.suggest_categorical("rank", _RANKS),
            "regularization_scaling": scaling,
            "user_bias_regularization": user_bias,
            "item_bias_regularization": item_bias,
            "factor_regularization": factor,
        }

    def _implicit(self, trial: optuna.Trial) -> dict[str, Any]:
        confidence = trial.suggest_float("confidence", 0.5, 64.0, log=True)
        exponent = trial.suggest_float("frequency_exponent", 0.0, 1.0)
        unit = (self._typical * (1 + confidence)) ** exponent
        return {
            "rank": trial.suggest_categorical("rank", _RANKS),
            "confidence": confidence,
            "frequency_exponent": exponent,
            "factor_regularization": trial.suggest_float("factor", 1.0, 300.0, log=True) / unit,
        }


def _stages(settings: TrainSettings) -> list[TrainSettings]:
    """Return the settings along a trial's path."""
    if settings.method == "gibbs":
        return [settings]
    weights = [settings.factor_regularization * _STEP**stage for stage in range(_STAGES)]
    return [replace(settings, factor_regularization=weight) for weight in weights]


class Measure:
    """Measures an epoch of all folds."""

    def __init__(self, executor: Executor, settings: TuneSettings) -> None:
        self.executor = executor
        self.name = "rmse" if settings.feedback == "explicit" else "ndcg"
        self._k = settings.k

    def best(self, values: list[float]) -> float | None:
        """Return the best value; None of none."""
        choose = min if self.name == "rmse" else max
        return choose(values, default=None)

    def is_better(self, value: float, than: float | None) -> bool:
        """Tell whether a value is better than another one, or the first."""
        return than is None or (value < than if self.name == "rmse" else value > than)

    def of(self, folds: list[Fold], epochs: tuple[Epoch, ...]) -> float:
        """Return the measure over all folds after an epoch of each."""
        if self.name == "rmse":
            squares = [
                fold.dataset.n_test * (epoch.figures.test_rmse or 0.0) ** 2
                for fold, epoch in zip(folds, epochs, strict=True)
            ]
            return math.sqrt(math.fsum(squares) / sum(fold.dataset.n_test for fold in folds))
        figures = self.executor.gather(
            [
                self.executor.submit(
                    ndcg_of_part,
                    block,
                    fold.blocks[USERS][number],
                    *(epoch.sides[side][0] for side in SIDES),
                    self._k,
                    key=f"ndcg-{epoch.figures.epoch}-{number}",
                )
                for fold, epoch in zip(folds, epochs, strict=True)
                for number, block in fold.held_out.items()
            ]
        )
        return as_float(sum(total for total, _ in figures)) / sum(lists for _, lists in figures)


def ndcg_of_part(
    held_out: Block, seen: Block, users: SolvedSide, items: SolvedSide, k: int
) -> tuple[int, int]:
    """Return the exact sum of a partition's NDCG at k, and how many lists that are.

    A list is of all items but those the user is trained on, for each user with a held-out one.
    """
    rows = np.flatnonzero(held_out.counts)
    own = users.state[held_out.rows.start : held_out.rows.stop]
    best = top_k(
        Factors(own.bias[rows], own.factors[rows]),
        candidates(items.state, typical_norm=typical_norm(items.state, len(users.state.bias))),
        k,
        seen=rated_by(seen, rows),
        mean=0.0,
    )
    indptr = np.concatenate([[0], np.cumsum(held_out.counts[rows])])
    return exact_sum(measures(best.rows, indptr, held_out.indices)["ndcg"]), len(rows)


@dataclass(eq=False)
class Walk:
    """A trial's way along its path, an epoch at a time.

    Attributes
    ----------
    settings : TrainSettings
        Those of the first stage.
    best : TrainSettings
        Those of the best stage so far.
    value : float or None
        The best measure so far; of samples, that of their average so far.
    """

    settings: TrainSettings
    folds: list[Fold]
    measure: Measure
    best: TrainSettings = field(init=False)
    value: float | None = None

    def __post_init__(self) -> None:
        self.best = self.settings

    @property
    def may_be_pruned(self) -> bool:
        """Whether its epochs compare with those of other trials; samples do not."""
        return self.settings.method == "als"

    def epochs(self) -> Iterator[float]:
        """Train all stages; yield the best measure so far after each epoch."""
        starts: list[Any] = [random_start] * len(self.folds)
        n_epochs = self.settings.epochs
        for stage in _stages(self.settings):
            before = self.value
            for epochs in _in_step(stage, self.folds, starts, n_epochs, self.measure.executor):
                value = self.measure.of(self.folds, epochs)
                if not self.may_be_pruned or self.measure.is_better(value, self.value):
                    self.value, self.best = value, stage
                assert self.value is not None, "it was set at the first epoch"
                yield self.value
            if self.value == before:
                return
            starts = [self._start_from(epoch) for epoch in epochs]
            n_epochs = _EPOCHS_OF_A_STAGE

    def _start_from(self, epoch: Epoch) -> Any:
        """Return the handle of a start from an epoch's factors, which stay on the workers."""
        sides = [epoch.sides[side][0] for side in SIDES]
        return self.measure.executor.submit(start_from_sides, *sides, key="start-from-stage")


def start_from_sides(users: SolvedSide, items: SolvedSide) -> Start:
    """Start from sides as they were solved."""
    return partial(_rows_of, {USERS: users.state, ITEMS: items.state})


def _rows_of(
    states: dict[Side, Factors], side: Side, rows: range, settings: TrainSettings
) -> tuple[Factors, None, None]:
    return states[side][rows.start : rows.stop], None, None


def _in_step(
    settings: TrainSettings,
    folds: list[Fold],
    starts: list[Any],
    n_epochs: int,
    executor: Executor,
) -> Iterator[tuple[Epoch, ...]]:
    """Train all folds side by side; yield an epoch of each."""
    stretches = [
        FoldTraining(fold, settings, executor).stretch(start, range(1, n_epochs + 1))
        for fold, start in zip(folds, starts, strict=True)
    ]
    return zip(*stretches, strict=True)


def _searched(
    study: optuna.Study,
    space: _Space,
    folds: list[Fold],
    measure: Measure,
    settings: TuneSettings,
) -> Iterator[Trial]:
    """Try settings, several at once, and yield each when it has ended."""
    deadline = time.monotonic() + 60 * (settings.minutes or math.inf)
    under_way: list[tuple[optuna.Trial, Walk, Iterator[tuple[int, float]]]] = []
    started = 0
    while True:
        while (
            started < settings.trials
            and len(under_way) < settings.at_once
            and (not started or time.monotonic() < deadline)
        ):
            trial = study.ask()
            walk = Walk(space.draw(trial), folds, measure)
            under_way.append((trial, walk, enumerate(walk.epochs(), start=1)))
            started += 1
        if not under_way:
            return
        for trial, walk, epochs in list(under_way):
            step = next(epochs, None)
            if step is not None and walk.may_be_pruned:
                trial.report(step[1], step[0])
            pruned = step is not None and walk.may_be_pruned and trial.should_prune()
            if step is None or pruned:
                under_way.remove((trial, walk, epochs))
                _tell(study, trial, walk, pruned=pruned)
                yield Trial(trial.number, walk.best, walk.value, pruned)


def _tell(study: optuna.Study, trial: optuna.Trial, walk: Walk, *, pruned: bool) -> None:
    from optuna.trial import TrialState

    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, walk.value)


def _candidates(trials: list[Trial], measure: Measure) -> list[TrainSettings]:
    """Return the settings of the best trials that were not given up."""
    ended = [trial for trial in trials if trial.value is not None and not trial.pruned]
    sign = 1 if measure.name == "rmse" else -1
    ended.sort(key=lambda trial: (sign * (trial.value or 0.0), trial.number))
    return [trial.settings for trial in ended[:_CONFIRMED]]


def _confirmed(
    settings: TrainSettings, folds: list[Fold], measure: Measure, tuning: TuneSettings
) -> tuple[TrainSettings, float]:
    """Train from random factors; return the settings with the best number of epochs."""
    starts = [random_start] * len(folds)
    values = [
        measure.of(folds, epochs)
        for epochs in _in_step(settings, folds, starts, settings.epochs, measure.executor)
    ]
    if settings.method == "gibbs":
        # Its epochs are burn-in and samples, and its figures those of the average so far.
        return settings, values[-1]
    best = measure.best(values)
    assert best is not None, "there is at least one epoch"
    return replace(settings, epochs=values.index(best) + 1), best
