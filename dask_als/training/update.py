"""Train a model further on new ratings, which are appended to its dataset first."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from dask_als.core import outputs, storage
from dask_als.core.executor import Executor
from dask_als.core.limits import is_on_same_storage
from dask_als.core.ownership import MODEL, check_inputs
from dask_als.core.run_events import Listener
from dask_als.data.dataset import Dataset, is_dataset, open_dataset
from dask_als.data.prepare import (
    Progress,
    Titles,
    append,
    growth_of,
    is_appended,
)
from dask_als.errors import InputError
from dask_als.model import manifest as model_manifest
from dask_als.model.manifest import ModelManifest
from dask_als.settings.checks import require_whole
from dask_als.settings.data import Columns
from dask_als.settings.training import BY_METHOD, TrainSettings
from dask_als.training.start import check_start
from dask_als.training.train import train

DEFAULT_EPOCHS = 3


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """How long a model is trained further; all else is as it was trained before.

    Attributes
    ----------
    epochs : int
        Epochs of ALS; with gibbs, the burn-in.
    samples : int or None
        With gibbs, the samples that are averaged; None takes as many as before.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    epochs: int = DEFAULT_EPOCHS
    samples: int | None = None

    def __post_init__(self) -> None:
        require_whole("epochs", self.epochs, least=1)
        if self.samples is not None:
            require_whole("samples", self.samples, least=1)

    def settings_after(self, before: TrainSettings) -> TrainSettings:
        """Return the settings of the further training."""
        if before.method == "als":
            if self.samples is not None:
                raise InputError(
                    f"samples is {self.samples}, but the model was trained with the method als; "
                    "leave it out"
                )
            return replace(before, epochs=self.epochs)
        samples = before.samples if self.samples is None else self.samples
        return replace(before, burn_in=self.epochs, samples=samples, epochs=BY_METHOD)


@dataclass(frozen=True, kw_only=True)
class NewRatings:
    """Ratings that a model is updated with.

    Attributes
    ----------
    path : str
        A source that `prepare` reads.
    columns : Columns or None
        Of the source; None takes those that the dataset was prepared with.
    titles : Titles or None
    test : str or None
        A source of ratings to hold out, for a dataset that has one of its own.
    """

    path: str
    columns: Columns | None = None
    titles: Titles | None = None
    test: str | None = None


@dataclass(frozen=True)
class Updated:
    """What an update has made.

    Attributes
    ----------
    dataset : Dataset
        The larger one.
    was_appended : bool
        Whether the ratings had been appended already, by a run that did not come to its end.
    model : ModelManifest
    """

    dataset: Dataset
    was_appended: bool
    model: ModelManifest


class UpdateWatcher(Protocol):
    """Is told how far an update is."""

    def preparing(self) -> AbstractContextManager[Progress]:
        """Return what is called with the stages of appending."""
        ...

    def training(self, n_epochs: int, /) -> AbstractContextManager[Listener]:
        """Return what receives the events of the training."""
        ...


class _Unwatched:
    def preparing(self) -> AbstractContextManager[Progress]:
        return nullcontext(lambda stage, done, total: None)

    def training(self, n_epochs: int, /) -> AbstractContextManager[Listener]:
        return nullcontext(Listener())


def update(
    model: str,
    ratings: NewRatings,
    out: str,
    executor: Executor,
    *,
    dataset: str | None = None,
    settings: UpdateSettings = UpdateSettings(),
    overwrite: bool = False,
    watcher: UpdateWatcher | None = None,
) -> Updated:
    """Append ratings to the dataset of a model, and train on from the model.

    If a run is killed after it has appended the ratings, the same call does not append them again.

    Parameters
    ----------
    model : str
        A model directory; it stays as it is.
    ratings : NewRatings
    out : str
        The model directory to write.
    executor : Executor
    dataset : str, optional
        The dataset that the model was trained on, if it was moved.
    settings : UpdateSettings, optional
    overwrite : bool, optional
        Whether to replace an existing model at `out`.
    watcher : UpdateWatcher, optional

    Raises
    ------
    InputError
        If the ratings cannot be appended, or training cannot start from the model. Then nothing is
        changed.
    JobError
        If workers, or the whole cluster, were lost and did not come back.
    """
    manifest = model_manifest.read_manifest(model)
    chosen = settings.settings_after(manifest.settings)
    before = dataset_to_update(model, manifest, dataset)
    outputs.check_directory(out, MODEL, overwrite=overwrite)
    check_inputs(out, [model, before.path])
    check_start(model, before, chosen)
    watcher = watcher or _Unwatched()
    was_appended = is_appended(ratings.path, before)
    grown = before
    if not was_appended:
        with watcher.preparing() as progress:
            grown = append(
                ratings.path,
                before.path,
                executor,
                columns=ratings.columns,
                titles=ratings.titles,
                test=ratings.test,
                progress=progress,
            )
    with watcher.training(chosen.epochs) as listener:
        trained = train(
            grown,
            out,
            chosen,
            executor,
            initial_model=model,
            overwrite=overwrite,
            listener=listener,
        )
    return Updated(grown, was_appended, trained)


def dataset_to_update(model: str, manifest: ModelManifest, path: str | None) -> Dataset:
    """Open the dataset that a model was trained on, or that has grown out of it.

    Raises
    ------
    InputError
        If it is not there, is another one, or lacks what appending needs.
    """
    asked = manifest.dataset["path"] if path is None else path
    if path is None and not (is_on_same_storage(asked, model) and is_dataset(asked)):
        raise InputError(f"the dataset of {model} is not at {asked}; name the place with --dataset")
    found = open_dataset(asked)
    growth = growth_of(found)
    known = {found.fingerprint, *(appended.before for appended in growth.appended)}
    if manifest.dataset["fingerprint"] not in known:
        raise InputError(
            f"{model} was not trained on {found.path}: their fingerprints differ; "
            f"it was trained on {storage.absolute(manifest.dataset['path'])}"
        )
    return found
