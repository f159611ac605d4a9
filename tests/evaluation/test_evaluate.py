import numpy as np
import pytest
import pytrec_eval
from support.data import generated, small_settings, write_csv
from support.oracle import Oracle

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, USERS
from dask_als.core.table_files import read_parquet
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.evaluation.baselines import baselines
from dask_als.evaluation.evaluate import evaluate
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
SETTINGS = small_settings(dtype="float64")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluate")
    source = write_csv(directory / "r.csv", generated(60, 50, 1500, seed=6))
    settings = PrepareSettings(test_fraction=0.2, partitions=2)
    return prepare(str(source), str(directory / "d"), SERIAL, settings=settings)


def rows_of(dataset, directory):
    tables = [read_parquet(f"{dataset.path}/{directory}/part-{n:05d}.parquet") for n in (0, 1)]
    return [
        row for table in tables for row in zip(*(c.to_pylist() for c in table.columns), strict=True)
    ]


def test_baselines(dataset):
    """The global mean, and biases from the oracle's loops with factors of 0."""
    train_rows, test_rows = rows_of(dataset, "by_user"), rows_of(dataset, "test")
    ratings = np.array([rating for _, _, rating in test_rows])
    mean = np.mean([rating for _, _, rating in train_rows])
    oracle = Oracle(
        train_rows,
        rank=1,
        lam=SETTINGS.residual_precision,
        gamma=SETTINGS.bias_regularization,
        tau=SETTINGS.factor_regularization,
        mean=mean,
    )
    oracle.user_factors = {user: np.zeros(1) for user in oracle.by_user}
    oracle.item_factors = {item: np.zeros(1) for item in oracle.by_item}
    for _ in range(15):
        oracle.epoch()
    cold = {
        side: np.mean(list(bias.values()))
        for side, bias in (("user", oracle.user_bias), ("item", oracle.item_bias))
    }
    predicted = np.array(
        [
            mean
            + oracle.user_bias.get(user, cold["user"])
            + oracle.item_bias.get(item, cold["item"])
            for user, item, _ in test_rows
        ]
    )
    found = baselines(dataset, SETTINGS, SERIAL)
    assert found.global_mean == pytest.approx(np.sqrt(((ratings - mean) ** 2).mean()), rel=1e-12)
    assert found.biases == pytest.approx(np.sqrt(((ratings - predicted) ** 2).mean()), rel=1e-9)


def test_they_do_not_take_another_trainings_results_for_theirs(dataset, client, tmp_path):
    """On one cluster, after training: Dask knows tasks by their keys."""
    executor = DaskExecutor(client)
    train(dataset, str(tmp_path / "m"), SETTINGS, executor)
    assert baselines(dataset, SETTINGS, executor) == baselines(dataset, SETTINGS, SERIAL)
    assert ALSModel.load(str(tmp_path / "m")).history[-1].test_rmse is not None


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("evaluated") / "m")
    train(dataset, path, SETTINGS, SERIAL)
    return path


def by_hand(dataset, model, relevant_from, k):
    """RMSE, MAE and ranked lists from all scores of all users, and trec_eval's measures."""
    loaded = ALSModel.load(model)
    users, items = loaded.users.state, loaded.items.state
    scores = loaded.manifest.global_mean + users.bias[:, None] + items.bias
    scores = scores + users.factors @ items.factors.T
    test = rows_of(dataset, "test")
    errors = np.array([rating - scores[user, item] for user, item, rating in test])
    unseen = scores.copy()
    for user, item, _ in rows_of(dataset, "by_user"):
        unseen[user, item] = -np.inf
    judged, run = {}, {}
    for user, item, rating in test:
        if rating >= relevant_from:
            judged.setdefault(str(user), {})[str(item)] = 1
            best = np.argsort(-unseen[user], kind="stable")[:k]
            run[str(user)] = {str(i): float(unseen[user, i]) for i in best}
    names = {"P": "precision", "recall": "recall", "ndcg_cut": "ndcg", "map_cut": "map"}
    names["success"] = "hit_rate"
    results = pytrec_eval.RelevanceEvaluator(judged, {f"{name}.{k}" for name in names}).evaluate(
        run
    )
    means = {
        ours: np.mean([its[f"{name}_{k}"] for its in results.values()])
        for name, ours in names.items()
    }
    recommended = {item for ranked in run.values() for item in ranked}
    return errors, means, len(recommended) / len(items.bias), len(judged)


@pytest.mark.parametrize("relevant_from", [None, 4.0])
def test_evaluate(dataset, model, relevant_from):
    settings = EvaluateSettings(k=5, relevant_from=relevant_from)
    found = evaluate(model, dataset, SERIAL, settings)
    errors, means, coverage, n_lists = by_hand(dataset, model, relevant_from or -1, 5)
    its = found.errors["model"]
    assert its.rmse == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)
    assert its.mae == pytest.approx(np.abs(errors).mean(), rel=1e-12)
    assert its.rmse_clipped <= its.rmse
    assert (found.n_test, found.n_lists) == (len(errors), n_lists)
    for name, value in means.items():
        assert getattr(found.ranking["model"], name) == pytest.approx(value, abs=1e-9)
    assert found.ranking["model"].coverage == coverage
    known = baselines(dataset, SETTINGS, SERIAL)
    assert found.errors["global mean"].rmse == pytest.approx(known.global_mean, rel=1e-12)
    assert found.errors["biases alone"].rmse == pytest.approx(known.biases, rel=1e-12)
    assert set(found.ranking) == {"model", "biases alone", "most popular"}
    popularity = {name: its.popularity for name, its in found.ranking.items()}
    assert popularity["most popular"] == max(popularity.values())


def test_evaluate_on_a_cluster_gives_the_same_bits(dataset, model, client):
    settings = EvaluateSettings(k=5)
    steps = []
    found = evaluate(
        model, dataset, DaskExecutor(client), settings, progress=lambda *step: steps.append(step)
    )
    assert found == evaluate(model, dataset, SERIAL, settings)
    assert steps == [(0, 2), (1, 2), (2, 2)]


def test_cold_users_and_items_are_counted_and_scored(tmp_path):
    """A user and an item whose only rating was held out."""
    rows = [(u, i, 1.0 + (u * i) % 5, u + i) for u in range(12) for i in range(8)]
    rows += [(99, 3, 4.0, 50), (5, 77, 2.0, 60)]
    source = write_csv(tmp_path / "r.csv", rows, ("userId", "movieId", "rating", "timestamp"))
    for seed in range(40):
        settings = PrepareSettings(test_fraction=0.3, seed=seed, partitions=2)
        dataset = prepare(
            str(source), str(tmp_path / "d"), SERIAL, settings=settings, overwrite=True
        )
        counts = {s: dataset.read_rows(s).to_pydict() for s in (USERS, ITEMS)}
        cold = {
            s: [i for i, n in zip(c["id"], c["count"], strict=True) if not n]
            for s, c in counts.items()
        }
        if cold == {USERS: [99], ITEMS: [77]}:
            break
    train(dataset, str(tmp_path / "m"), SETTINGS, SERIAL)
    found = evaluate(str(tmp_path / "m"), dataset, SERIAL, EvaluateSettings(k=3))
    assert (found.n_cold, found.cold_users, found.cold_items) == (2, 1, 1)
    model = ALSModel.load(str(tmp_path / "m"))
    errors = [4.0 - model.predict(99, 3), 2.0 - model.predict(5, 77)]
    assert found.errors["model"].rmse_cold == pytest.approx(np.sqrt(np.mean(np.square(errors))))


def test_a_model_of_implicit_feedback_ranks_and_predicts_no_ratings(dataset, tmp_path):
    path = str(tmp_path / "m")
    train(dataset, path, small_settings(feedback="implicit", dtype="float64"), SERIAL)
    found = evaluate(path, dataset, SERIAL, EvaluateSettings(k=5))
    assert set(found.errors) == {"global mean", "biases alone"}
    _, means, coverage, _ = by_hand(dataset, path, -1, 5)
    for name, value in means.items():
        assert getattr(found.ranking["model"], name) == pytest.approx(value, abs=1e-9)
    assert found.ranking["model"].coverage == coverage


def test_nothing_held_out(tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(10, 10, 50))
    dataset = prepare(str(source), str(tmp_path / "d"), SERIAL)
    train(dataset, str(tmp_path / "m"), SETTINGS, SERIAL)
    with pytest.raises(InputError, match=r"holds out no ratings.*--test-fraction"):
        evaluate(str(tmp_path / "m"), dataset, SERIAL, EvaluateSettings())
