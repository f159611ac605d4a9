"""`ALS`: settings, and `fit`, which trains on the cluster at hand."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Self

from distributed import Client

from dask_als.cluster import interrupts
from dask_als.core import storage
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.side import ITEMS, USERS
from dask_als.core.wording import python_words
from dask_als.data.dataset import Dataset
from dask_als.data.frames import MatrixIds
from dask_als.errors import InputError
from dask_als.fitting import dataset_of_ratings, initial_model, training_client
from dask_als.model.model import ALSModel
from dask_als.settings.checks import plain_numbers
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import StopSettings, TrainSettings
from dask_als.training.callbacks import Callback
from dask_als.training.train import train


@dataclass(frozen=True, kw_only=True)
class ALS(TrainSettings):
    """Biased matrix factorization by alternating least squares, trained on Dask.

    The settings are those of `TrainSettings`, with two more. `get_params`, `set_params` and
    ``sklearn.base.clone`` work as for estimators of scikit-learn.

    Attributes
    ----------
    client : distributed.Client or None
        The cluster to train on. None takes the current client; if there is none, threads of this
        process, for the call.
    scratch : str or path or None
        A directory for the files that `fit` writes, which all workers must see; None makes a
        temporary one.

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
    scratch: str | os.PathLike[str] | None = None
    _given: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        plain_numbers(self)
        # Before None is replaced by a number that depends on the method.
        object.__setattr__(self, "_given", {"rank": self.rank, "epochs": self.epochs})
        with _setting_names(), python_words():
            super().__post_init__()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the settings as they were given, by name.

        Parameters
        ----------
        deep : bool, optional
            Makes no difference: no setting has settings of its own.
        """
        names = [setting.name for setting in fields(self) if setting.init]
        return {name: self._given.get(name, getattr(self, name)) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Change settings and return the estimator.

        Raises
        ------
        InputError
            If there is no such setting, or a value is out of its range; then nothing changes.
        """
        known = self.get_params()
        unknown = [name for name in params if name not in known]
        if unknown:
            raise InputError(f"ALS has no setting {unknown[0]!r}; it has {', '.join(known)}")
        changed = type(self)(**{**known, **params})
        for setting in fields(self):
            object.__setattr__(self, setting.name, getattr(changed, setting.name))
        return self

    def __sklearn_clone__(self) -> Self:
        # By default scikit-learn copies every setting deeply, which a client does not allow.
        return type(self)(**self.get_params())

    def fit(
        self,
        ratings: Any,
        *,
        columns: Columns = Columns(),
        prepare_settings: PrepareSettings = PrepareSettings(),
        stopping: StopSettings = StopSettings(),
        on_epoch: Callable[[EpochFigures], None] = lambda figures: None,
        callbacks: Sequence[Callback] = (),
        user_ids: Sequence[Any] | None = None,
        item_ids: Sequence[Any] | None = None,
        test: Any = None,
        user_attributes: Any = None,
        item_attributes: Any = None,
        init_from: ALSModel | str | os.PathLike[str] | None = None,
    ) -> ALSModel:
        """Train a model.

        Parameters
        ----------
        ratings
            The path of a dataset made by `prepare`, or of a source that `prepare` reads; a data
            frame of pandas, Dask or Polars; anything with the Arrow C stream interface, such as a
            PyArrow table or a DuckDB relation; a scipy.sparse matrix of users and items; or an
            array, or a tuple of arrays, of users, items, ratings and, if there are any, times.
        columns : Columns, optional
            The names of user, item, rating and time in `ratings`, where columns have names.
        prepare_settings : PrepareSettings, optional
            Split, duplicates and filters; not for a dataset, which is prepared already.
        stopping : StopSettings, optional
            What ends the training before its last epoch.
        on_epoch : callable, optional
            Called with the figures of each epoch.
        callbacks : sequence of callable, optional
            Each is called with a `TrainedEpoch` after every epoch: its ``figures``, the
            ``history``, and ``save(directory)``, which writes the model as it is then. One that
            returns true ends the training.
        user_ids, item_ids : sequence of ids, optional
            The ids of the rows and the columns of a sparse matrix; they are numbered from 0 by
            default.
        test : optional
            Ratings to hold out, in any form that `ratings` may have; not for a dataset.
        user_attributes, item_attributes : optional
            Attributes by id, which predict the factors of those with few ratings or none: a path
            to CSV or Parquet, a data frame (pandas, Polars) or an Arrow table. The column of ids is
            called as in `ratings`, or ``id``; or it is the index of a pandas frame. The others are
            numbers, text (categories, ``Action|Comedy`` for several) or lists of text; values may
            be missing. Not for a dataset, which has its own.
        init_from : ALSModel or str or path, optional
            A model to start from. Its users and items are matched by id: new ones are folded in,
            and those that `ratings` do not have are left out.

        Returns
        -------
        ALSModel
            In memory, usable without a cluster. What was written to make it is removed with it.

        Warns
        -----
        RejectedRowsWarning
            If rows are not usable: how many, and the reason for the first.

        Raises
        ------
        InputError
            If the ratings, or the client, cannot be used.
        """
        ids = MatrixIds(user_ids, item_ids)
        with interrupts.noticed(), self._scratch() as scratch, training_client(self.client) as use:
            dataset = dataset_of_ratings(
                ratings,
                scratch,
                use,
                columns=columns,
                settings=prepare_settings,
                ids=ids,
                test=test,
                attributes={
                    side: given
                    for side, given in ((USERS, user_attributes), (ITEMS, item_attributes))
                    if given is not None
                },
            )
            model_path = storage.join(scratch, "model")
            train(
                dataset,
                model_path,
                self._settings(),
                use.executor,
                initial_model=initial_model(init_from, scratch),
                stopping=stopping,
                on_epoch=on_epoch,
                callbacks=callbacks,
            )
            return _loaded(model_path, dataset, scratch)

    @contextmanager
    def _scratch(self) -> Iterator[str]:
        """Yield a new directory, which is removed if the block raises, or with its model."""
        parent = None if self.scratch is None else os.fspath(self.scratch)
        try:
            scratch = tempfile.mkdtemp(prefix="dask-als-", dir=parent)
        except OSError as error:
            raise InputError(f"scratch is {parent!r}: {error.strerror}") from None
        try:
            with python_words({storage.join(scratch, "ratings"): "the ratings"}):
                yield scratch
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def _settings(self) -> TrainSettings:
        return TrainSettings(**{f.name: getattr(self, f.name) for f in fields(TrainSettings)})


def _loaded(model_path: str, dataset: Dataset, scratch: str) -> ALSModel:
    """Load a model whose files, and those of a dataset made for it, live as long as it does."""
    model = ALSModel.load(model_path, dataset.path)
    model.owns_dataset = dataset.path.startswith(storage.absolute(scratch))
    weakref.finalize(model, shutil.rmtree, scratch, ignore_errors=True)
    return model


@contextmanager
def _setting_names() -> Iterator[None]:
    """Let errors name settings as Python has them: with underscores."""
    try:
        yield
    except InputError as error:
        names = "|".join(f.name.replace("_", "-") for f in fields(TrainSettings) if "_" in f.name)
        message = re.sub(rf"(?<!-)\b({names})\b", lambda m: m[0].replace("-", "_"), str(error))
        error.args = (message,)
        raise
