"""`ALS`: settings, and `fit`, which trains on whatever cluster is at hand."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

from distributed import Client

from dask_als.cluster import interrupts
from dask_als.cluster.connect import current_client, in_process_client
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core import storage
from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.executor import Executor
from dask_als.data.dataset import Dataset, is_dataset, open_dataset
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model.model import ALSModel
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import StopSettings, TrainSettings
from dask_als.training.callbacks import Callback
from dask_als.training.train import train


@dataclass(frozen=True, kw_only=True)
class ALS(TrainSettings):
    """Biased matrix factorization by alternating least squares, trained on Dask.

    The settings are those of `TrainSettings`, with two more.

    Attributes
    ----------
    client : distributed.Client or None
        The cluster to train on. None takes the current client; if there is none, threads of this
        process, for the call.
    scratch : str or None
        A directory for what `fit` writes, which all workers must see; None makes a temporary one.

    Examples
    --------
    >>> import pandas as pd
    >>> from dask_als import ALS, Columns
    >>> ratings = pd.DataFrame(
    ...     {
    ...         "reader": ["ann", "ann", "bob", "bob", "cleo"],
    ...         "book": ["dune", "emma", "dune", "ulysses", "emma"],
    ...         "stars": [5.0, 3.0, 4.0, 1.0, 2.0],
    ...     }
    ... )
    >>> columns = Columns(user="reader", item="book", rating="stars")
    >>> model = ALS(rank=2, epochs=3).fit(ratings, columns=columns)
    >>> model
    <ALSModel: rank 2, 3 users, 3 items>
    >>> model.recommend(user="ann")["item_id"].tolist()
    ['ulysses']
    """

    client: Client | None = None
    scratch: str | None = None

    def fit(
        self,
        ratings: Any,
        *,
        columns: Columns = Columns(),
        prepare_settings: PrepareSettings = PrepareSettings(),
        test: Any = None,
        init_from: ALSModel | str | os.PathLike[str] | None = None,
        stopping: StopSettings = StopSettings(),
        on_epoch: Callable[[EpochFigures], None] = lambda figures: None,
        callbacks: Sequence[Callback] = (),
    ) -> ALSModel:
        """Train a model.

        Parameters
        ----------
        ratings : str or path or pandas.DataFrame or dask.dataframe.DataFrame
            A dataset made by `prepare`, a source that `prepare` reads, or a data frame.
        columns : Columns, optional
            The names of user, item, rating and time in `ratings`.
        prepare_settings : PrepareSettings, optional
            Split, duplicates and filters; not for a dataset, which is prepared already.
        test : str or path or data frame, optional
            Ratings to hold out, as `ratings`; not for a dataset.
        init_from : ALSModel or str or path, optional
            A model to start from. Its users and items are matched by id: new ones are folded in,
            and those that `ratings` do not have are left out.
        stopping : StopSettings, optional
            What ends the training before its last epoch.
        on_epoch : callable, optional
            Told the figures of each epoch.
        callbacks : sequence of callable, optional
            Each is given a `TrainedEpoch` after every epoch: its ``figures``, the ``history``, and
            ``save(directory)``, which writes the model as it is then. One that returns true ends
            the training.

        Returns
        -------
        ALSModel
            In memory, usable without a cluster. What was written to make it is removed with it.
        """
        with interrupts.noticed():
            given = _Given(ratings, test, columns, prepare_settings)
            return self._fit(given, init_from, stopping, on_epoch, callbacks)

    def _fit(
        self,
        given: _Given,
        init_from: ALSModel | str | os.PathLike[str] | None,
        stopping: StopSettings,
        on_epoch: Callable[[EpochFigures], None],
        callbacks: Sequence[Callback],
    ) -> ALSModel:
        scratch = tempfile.mkdtemp(prefix="dask-als-", dir=self.scratch)
        remove_scratch = weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        try:
            with self._client() as client:
                executor = DaskExecutor(client)
                dataset = _dataset_of(given, scratch, executor)
                model_path = storage.join(scratch, "model")
                train(
                    dataset,
                    model_path,
                    self._settings(),
                    executor,
                    initial_model=_initial_model(init_from, scratch),
                    stopping=stopping,
                    on_epoch=on_epoch,
                    callbacks=callbacks,
                )
            model = ALSModel.load(model_path, dataset.path)
        except BaseException:
            remove_scratch()
            raise
        # The dataset, where seen items and titles are looked up, lives as long as the model does.
        remove_scratch.detach()
        weakref.finalize(model, shutil.rmtree, scratch, ignore_errors=True)
        return model

    def _client(self) -> AbstractContextManager[Client]:
        client = self.client or current_client()
        return in_process_client() if client is None else nullcontext(client)

    def _settings(self) -> TrainSettings:
        return TrainSettings(**{f.name: getattr(self, f.name) for f in fields(TrainSettings)})


@dataclass(frozen=True)
class _Given:
    """The ratings that `fit` was given, and how they are prepared."""

    ratings: Any
    test: Any
    columns: Columns
    settings: PrepareSettings


def _dataset_of(given: _Given, scratch: str, executor: Executor) -> Dataset:
    """Open a dataset, or make one in the scratch directory."""
    if isinstance(given.ratings, str | os.PathLike):
        path = os.fspath(given.ratings)
        if is_dataset(path):
            if given.test is not None:
                raise InputError(f"{path} is prepared already; prepare it with test= instead")
            return open_dataset(path)
    return prepare(
        _source_of(given.ratings, scratch, "ratings"),
        storage.join(scratch, "dataset"),
        executor,
        columns=given.columns,
        settings=given.settings,
        test=None if given.test is None else _source_of(given.test, scratch, "test"),
    )


def _source_of(ratings: Any, scratch: str, name: str) -> str:
    """Return the path of ratings; a data frame is written to the scratch directory."""
    if isinstance(ratings, str | os.PathLike):
        return os.fspath(ratings)
    if not hasattr(ratings, "to_parquet"):
        raise InputError(f"{name} are a {type(ratings).__name__}; give a path or a data frame")
    source = storage.join(scratch, f"{name}.parquet")
    ratings.to_parquet(source)
    return source


def _initial_model(model: ALSModel | str | os.PathLike[str] | None, scratch: str) -> str | None:
    """Return the path of a model; one in memory is written to the scratch directory."""
    if isinstance(model, ALSModel):
        path = storage.join(scratch, "initial-model")
        model.save(path)
        return path
    return None if model is None else os.fspath(model)
