import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import pytrec_eval
from support.data import generated, write_csv
from support.oracle import Oracle

from dask_als.cli.main import main
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.blocks import Factors, block_of, random_factors
from dask_als.core.executor import SerialExecutor, Shape
from dask_als.core.side import SIDES, USERS
from dask_als.core.superaccumulator import as_float
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.jobs.job_file import read_job
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import TrainSettings
from dask_als.settings.tuning import TuneSettings
from dask_als.solvers.base import SolvedSide
from dask_als.solvers.objective import NO_SUMS
from dask_als.tuning.folds import split_into_folds
from dask_als.tuning.measure import Measure, ndcg_of_part
from dask_als.tuning.search import check_fits, tune
from dask_als.tuning.walk import Walk

SERIAL = SerialExecutor()
SMALL = TuneSettings(trials=8, folds=2, epochs=4, method="als")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tune")
    source = write_csv(directory / "r.csv", generated(60, 50, 1500, seed=6))
    settings = PrepareSettings(test_fraction=0.2, partitions=2, seed=3)
    return prepare(str(source), str(directory / "d"), SERIAL, settings=settings)


@pytest.fixture(scope="module")
def found(dataset):
    return tune(dataset, SERIAL, SMALL)


def test_the_value_is_that_of_loops_over_folds(dataset, found):
    """Sums of squared errors of a plain implementation, trained on each fold's own rows."""
    defaults = TrainSettings()
    squares = np.zeros(SMALL.epochs)
    for fold in split_into_folds(dataset, SERIAL, folds=2, seed=0):
        rows = [
            row
            for block in fold.blocks[USERS]
            for row in zip(block.row_of_rating, block.indices, block.ratings, strict=True)
        ]
        oracle = Oracle(
            rows,
            rank=defaults.rank,
            lam=defaults.residual_precision,
            gamma=defaults.bias_regularization,
            tau=defaults.factor_regularization,
            mean=np.mean([rating for _, _, rating in rows]),
        )
        start = started(dataset, defaults)
        oracle.user_factors = {user: start["users"][user] for user in oracle.by_user}
        oracle.item_factors = {item: start["items"][item] for item in oracle.by_item}
        for epoch in range(SMALL.epochs):
            oracle.epoch()
            for block in fold.held_out.values():
                predicted = [
                    predict(oracle, user, item)
                    for user, item in zip(block.row_of_rating, block.indices, strict=True)
                ]
                squares[epoch] += np.sum((block.ratings - np.array(predicted)) ** 2)
    by_epoch = np.sqrt(squares / dataset.n_ratings)
    assert found.default_value == pytest.approx(by_epoch.min(), rel=1e-4)


def started(dataset, settings):
    return {
        side.name: random_factors(
            side,
            range(dataset.table(side).n_rows),
            rank=settings.rank,
            seed=settings.seed,
            dtype="float64",
        ).factors
        for side in SIDES
    }


def predict(oracle, user, item):
    """Return a prediction; an id without training ratings has the mean bias and no factors."""
    biases = [
        bias.get(own, np.mean(list(bias.values())))
        for bias, own in ((oracle.user_bias, user), (oracle.item_bias, item))
    ]
    product = 0.0
    if user in oracle.user_factors and item in oracle.item_factors:
        product = oracle.user_factors[user] @ oracle.item_factors[item]
    return oracle.mean + sum(biases) + product


def test_never_worse_than_the_defaults(found):
    assert found.measure == "rmse"
    assert found.value <= found.default_value
    assert found.settings.epochs <= SMALL.epochs
    assert [trial.number for trial in found.trials] == list(range(SMALL.trials))
    assert any(trial.pruned for trial in found.trials)


def test_the_same_search_again(dataset, found):
    assert tune(dataset, SERIAL, SMALL) == found


def test_the_same_search_on_a_cluster(dataset, client):
    few = replace(SMALL, trials=2, epochs=2)
    assert tune(dataset, DaskExecutor(client), few) == tune(dataset, SERIAL, few)


def test_other_numbers_of_trials_at_once_are_other_searches(dataset, found):
    alone = tune(dataset, SERIAL, replace(SMALL, at_once=1))
    assert alone.default_value == found.default_value
    assert tune(dataset, SERIAL, replace(SMALL, at_once=1)) == alone


def test_held_out_ratings_are_not_looked_at(dataset, found, tmp_path):
    shutil.copytree(dataset.path, tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "test")
    assert tune(open_dataset(str(tmp_path / "d")), SERIAL, SMALL) == found


def test_time_is_up(dataset):
    """One trial always runs, and the defaults are a result."""
    tuning = tune(dataset, SERIAL, replace(SMALL, at_once=1, minutes=1e-9))
    assert len(tuning.trials) == 1


def test_memory_that_cannot_do(dataset):
    """Folds and trials at once take room; less of them fits."""
    many = replace(SMALL, folds=500, at_once=100)
    shape = Shape(workers=1, threads=1, memory=1 << 30)
    with pytest.raises(InputError, match=r"500 folds and 100 trials at once, .* fewer --folds"):
        check_fits(dataset, many, shape)
    check_fits(dataset, SMALL, shape)
    check_fits(dataset, many, replace(shape, memory=None))


def test_samples(dataset):
    tuning = tune(dataset, SERIAL, replace(SMALL, trials=2, method="any"))
    assert [trial.settings.method for trial in tuning.trials] == ["als", "gibbs"]
    assert tuning.value <= tuning.default_value
    gibbs = tune(dataset, SERIAL, replace(SMALL, trials=1, method="gibbs"))
    assert gibbs.settings.method == "gibbs"
    assert gibbs.settings.epochs == TrainSettings(method="gibbs").epochs


def test_implicit(dataset):
    tuning = tune(dataset, SERIAL, replace(SMALL, feedback="implicit"))
    assert tuning.measure == "ndcg"
    assert tuning.value >= tuning.default_value
    assert tuning.settings.feedback == "implicit"


def test_ndcg_of_lists():
    """As an independent implementation has it, over all items a user is not trained on."""
    random = np.random.default_rng(0)
    n_users, n_items, k = 12, 30, 5
    kind = random.choice([0, 1, 2], p=[0.6, 0.3, 0.1], size=(n_users, n_items))
    kind[3] = np.minimum(kind[3], 1)

    def block(of_kind):
        user, item = np.nonzero(kind == of_kind)
        return block_of(range(n_users), user, item.astype(np.int32), np.ones(len(user), np.float32))

    users, items = (
        SolvedSide(Factors(random.normal(size=n), random.normal(size=(n, 4))), NO_SUMS, 0.0)
        for n in (n_users, n_items)
    )
    total, lists = ndcg_of_part(block(2), block(1), users, items, k)
    scores = items.solution.bias + users.solution.factors @ items.solution.factors.T
    judged = {
        str(user): {str(item): 1 for item in np.flatnonzero(kind[user] == 2)}
        for user in range(n_users)
        if (kind[user] == 2).any()
    }
    run = {
        user: {str(i): float(scores[int(user), i]) for i in np.flatnonzero(kind[int(user)] != 1)}
        for user in judged
    }
    figures = pytrec_eval.RelevanceEvaluator(judged, {f"ndcg_cut.{k}"}).evaluate(run)
    assert lists == len(judged) < n_users
    expected = sum(its[f"ndcg_cut_{k}"] for its in figures.values())
    assert as_float(total) == pytest.approx(expected, rel=1e-9)


def test_the_command_writes_a_job_that_runs(dataset, tmp_path, capsys):
    path = tmp_path / "Best of 8.toml"
    options = ["--trials", "1", "--folds", "2", "--epochs", "2", "--cluster", "serial"]
    main(["tune", dataset.path, str(path), *options, "--json"])
    told = json.loads(capsys.readouterr().out)
    job = read_job(str(path))
    assert job.train.to_json() == told["settings"]
    assert (job.name, job.output) == ("best-of-8", str(tmp_path / "Best of 8"))
    assert job.prepare.split_json() == dataset.split
    main(["run", str(path), "--cluster", "serial"])
    again = open_dataset(job.dataset)
    assert again.fingerprint == dataset.fingerprint


def test_a_job_that_is_there_is_kept(dataset, tmp_path, capsys):
    path = tmp_path / "t.toml"
    path.write_text("mine")
    refused(["tune", dataset.path, str(path)])
    assert "exists already" in capsys.readouterr().err
    assert path.read_text() == "mine"


def refused(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_epochs_of_a_walk_only_get_better(dataset):
    folds = split_into_folds(dataset, SERIAL, folds=2, seed=0)
    settings = TrainSettings(rank=4, epochs=3, factor_regularization=2.0)
    walk = Walk(settings, folds, Measure(SERIAL, SMALL))
    values = list(walk.epochs())
    assert all(later <= earlier for earlier, later in pairwise(values))
    assert len(values) > settings.epochs
    assert walk.best.factor_regularization >= settings.factor_regularization
