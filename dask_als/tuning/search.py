"""Search for good settings by cross-validation on a dataset's training ratings.

A trial is a combination of settings, drawn by Optuna's tree-structured Parzen estimator (Bergstra
et al. 2011). It walks along a path of factor regularizations from weak to strong. Each stage but
the first starts from the factors of the one before and needs few epochs. (From strong to weak would
fail: factors that a strong weight has shrunk to 0 stay 0.) A trial is pruned if it is worse after
some epoch than the median of earlier trials. The best few are then trained again from random
factors, as `train` would do. The best of these is the result, with its best number of epochs.

The measure is the RMSE over the held-out ratings of all folds or, with implicit feedback, the NDCG
of ranked lists of all items without the training items, averaged over users and folds.

All trials share the blocks of the folds. The driver takes an epoch from each running trial in turn,
so the search depends on the seed and on the number of trials that run at once, but not on the order
in which tasks end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from dask_als.core.executor import Executor, Shape
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.planning.memory import USABLE, in_words, memory_of_a_worker
from dask_als.settings.training import TrainSettings
from dask_als.settings.tuning import TuneSettings
from dask_als.training.start import random_start
from dask_als.tuning.folds import Fold, split_into_folds
from dask_als.tuning.measure import Measure
from dask_als.tuning.search_space import RANKS, SearchSpace
from dask_als.tuning.walk import Walk, train_folds

if TYPE_CHECKING:
    import optuna

_CONFIRMED = 3
_TRIALS_BEFORE_PRUNING = 5


@dataclass(frozen=True)
class Trial:
    """A trial and its measure.

    Attributes
    ----------
    number : int
        In the order of the search.
    settings : TrainSettings
        The best settings on the trial's path.
    value : float or None
        The measure by cross-validation; None if no epoch ended.
    pruned : bool
        Whether the search stopped it early.
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
        The best settings, with the best number of epochs.
    value : float
        Their measure by cross-validation, trained from random factors.
    default_value : float
        The measure of the default settings.
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
        Only its training ratings are used.
    progress : callable, optional
        Called with the number of trainings that are done, of all, and the best measure so far.

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
    space = SearchSpace(settings, dataset)
    defaults = space.defaults()
    for default in defaults:
        study.enqueue_trial(space.parameters_of(default))
    trials: list[Trial] = []
    for trial in _searched(study, space, folds, measure, settings):
        trials.append(trial)
        best = measure.best([each.value for each in trials if each.value is not None])
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
    """Check that the folds, and the models of running trials, fit the workers' memory limit.

    Raises
    ------
    InputError
        If they cannot.
    """
    largest = TrainSettings(rank=max(RANKS), feedback=settings.feedback)
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
            f"{settings.at_once} trials at once, and Dask kills it at {USABLE:.0%} of its limit of "
            f"{in_words(shape.memory)}; give fewer --folds, fewer --at-once, more workers or more "
            "--memory"
        )


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises
    ------
    InputError
        If it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise InputError("tune needs Optuna: pip install 'dask-als[tune]'") from None


def _study(settings: TuneSettings) -> optuna.Study:
    require_optuna()
    import optuna

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


def _searched(
    study: optuna.Study,
    space: SearchSpace,
    folds: list[Fold],
    measure: Measure,
    settings: TuneSettings,
) -> Iterator[Trial]:
    """Run trials, several at once, and yield each when it has ended."""
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
    """Return the settings of the best trials that were not pruned."""
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
        for epochs in train_folds(settings, folds, starts, settings.epochs, measure.executor)
    ]
    if settings.method == "gibbs":
        # The number of epochs is fixed: burn-in and samples. The last value is that of their mean.
        return settings, values[-1]
    best = measure.best(values)
    assert best is not None, "there is at least one epoch"
    return replace(settings, epochs=values.index(best) + 1), best
