"""Training that starts from a model with other users and items."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support.data import MOVIELENS, generated, small_settings, write_csv

from dask_als import ALS
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.core.run_events import Listener
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.initial import MatchedRows
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.carried_over import carry_over
from dask_als.training.train import train

SERIAL = SerialExecutor()
GIBBS = TrainSettings(method="gibbs", rank=3, burn_in=1, samples=3)


@pytest.fixture(scope="module")
def ratings():
    return generated(70, 50, 1700, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ratings):
    """Datasets `old` and `new`: of each side the last ids are new, and the first are gone."""
    folder = tmp_path_factory.mktemp("carried-over")
    users, items = (sorted({row[place] for row in ratings}) for place in (0, 1))
    old = [row for row in ratings if row[0] < users[60] and row[1] < items[44]]
    new = [row for row in ratings if row[0] >= users[3] and row[1] >= items[2]]
    for name, rows in (("old", old), ("new", new)):
        write_csv(folder / f"{name}.csv", rows)
    prepare(str(folder / "old.csv"), str(folder / "old"), SERIAL)
    for partitions in (1, 2, 7):
        chosen = PrepareSettings(partitions=partitions, test_fraction=0.1)
        prepare(str(folder / "new.csv"), str(folder / f"new-{partitions}"), SERIAL, settings=chosen)
    samples = replace(GIBBS, keep_samples=True)
    for name, its in (("als", small_settings()), ("gibbs", samples), ("compact", GIBBS)):
        train(open_(folder, "old"), str(folder / name), its, SERIAL)
    return folder


def open_(folder, name):
    return open_dataset(str(folder / name))


def as_it_is(**changes):
    """Return settings with which no factors are lengthened."""
    return small_settings(regularization_scaling="count", **changes)


def bits(path):
    """The ids and numbers of a model, and its figures, but for the time that they took."""
    model = ALSModel.load(path)
    rows = [
        (list(its.ids), its.state.bias.tobytes(), its.state.factors.tobytes())
        for its in (model.users, model.items)
    ]
    return rows, [replace(figures, seconds=0) for figures in model.history]


def test_rows_are_matched_by_id_and_new_ones_folded_in(folder, tmp_path):
    dataset, settings = open_(folder, "new-2"), as_it_is(dtype="float64")
    start = str(tmp_path / "start")
    (tmp_path / "start").mkdir()
    initial = carry_over(str(folder / "als"), dataset, settings, SERIAL, start)
    model = ALSModel.load(str(folder / "als"))
    for side in SIDES:
        its, known = model.rows(side), dataset.read_rows(side)["id"].to_pylist()
        found, _ = model_files.read_state(start, side, range(len(known)), "float64")
        rows = its.rows(known)
        np.testing.assert_array_equal(found.factors[rows >= 0], its.state.factors[rows[rows >= 0]])
        np.testing.assert_array_equal(found.bias[rows >= 0], its.state.bias[rows[rows >= 0]])
        counts = getattr(initial, side.name)
        gone = len(its.ids) - (rows >= 0).sum()
        assert counts == MatchedRows((rows >= 0).sum(), (rows < 0).sum(), gone)
        assert min(counts.known, counts.new, counts.gone) > 1


def test_a_new_row_is_what_fold_in_gives(tmp_path, ratings):
    """If all items are known, a new user starts with the bias and factors of `fold_in`."""
    user = ratings[0][0]
    write_csv(tmp_path / "old.csv", [row for row in ratings if row[0] != user])
    write_csv(tmp_path / "new.csv", ratings)
    old = prepare(str(tmp_path / "old.csv"), str(tmp_path / "old"), SERIAL)
    new = prepare(str(tmp_path / "new.csv"), str(tmp_path / "new"), SERIAL)
    settings = as_it_is(dtype="float64", center=False)
    train(old, str(tmp_path / "model"), settings, SERIAL)
    (tmp_path / "start").mkdir()
    carry_over(str(tmp_path / "model"), new, settings, SERIAL, str(tmp_path / "start"))
    model = ALSModel.load(str(tmp_path / "model"))
    expected = model.fold_in({item: rating for its, item, rating in ratings if its == user})
    ids = new.read_rows(USERS)["id"].to_pylist()
    found, _ = model_files.read_state(str(tmp_path / "start"), USERS, range(len(ids)), "float64")
    row = ids.index(user)
    assert found.bias[row] == pytest.approx(expected.bias, rel=1e-12)
    np.testing.assert_allclose(found.factors[row], expected.factors, rtol=1e-12)
    assert len(new.read_rows(ITEMS)) == len(old.read_rows(ITEMS))


@pytest.mark.parametrize("model", ["als", "gibbs", "compact"])
def test_the_same_bits_on_any_cluster(folder, tmp_path, client, model):
    settings = small_settings(epochs=2) if model == "als" else GIBBS
    found = []
    for partitions, executor in ((1, SERIAL), (2, SERIAL), (7, SERIAL), (7, DaskExecutor(client))):
        path = str(tmp_path / f"{len(found)}")
        dataset = open_(folder, f"new-{partitions}")
        train(dataset, path, settings, executor, initial_model=str(folder / model))
        found.append(bits(path))
    assert found[1:] == found[:1] * 3


def test_a_model_remembers_its_start(folder, tmp_path):
    told = []
    manifest = train(
        open_(folder, "new-2"),
        str(tmp_path / "m"),
        small_settings(epochs=1),
        SERIAL,
        initial_model=str(folder / "als"),
        listener=Listener(started_from=told.append),
    )
    assert told == [manifest.initial]
    assert manifest.initial.path == str(folder / "als")
    assert model_manifest.read_manifest(str(tmp_path / "m")) == manifest
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "history.jsonl", "items", "model.json", "users",
    ]  # fmt: skip


def test_gibbs_starts_from_the_last_sample(folder, tmp_path):
    dataset, start = open_(folder, "old"), tmp_path / "start"
    start.mkdir()
    carry_over(str(folder / "gibbs"), dataset, GIBBS, SERIAL, str(start))
    model = ALSModel.load(str(folder / "gibbs"))
    n_users = len(model.users.ids)
    found, rated = model_files.read_state(str(start), USERS, range(n_users), "float32")
    np.testing.assert_allclose(
        found.factors, model.users.state.factors[:, -3:] * np.sqrt(3), rtol=1e-6
    )
    np.testing.assert_array_equal(found.bias, model.users.biases_of_samples[:, -1])
    assert rated.all()
    precision = model_manifest.read_manifest(str(start)).residual_precision
    assert precision == model.manifest.residual_precision


def test_gibbs_starts_from_a_compact_model(folder, tmp_path):
    """The first columns are the best approximation of a lower rank; missing ones are zero."""
    dataset, model = open_(folder, "old"), ALSModel.load(str(folder / "compact"))
    rows = range(len(model.users.ids))
    for rank in (2, 3, 5):
        start = tmp_path / str(rank)
        start.mkdir()
        its = replace(GIBBS, rank=rank)
        carry_over(str(folder / "compact"), dataset, its, SERIAL, str(start))
        found, _ = model_files.read_state(str(start), USERS, rows, "float32")
        used = min(rank, 3)
        expected = model.users.state.factors[:, :used]
        np.testing.assert_array_equal(found.factors[:, :used], expected)
        assert not found.factors[:, used:].any()


def test_ids_without_any_in_common_are_refused(folder, tmp_path, ratings):
    write_csv(tmp_path / "x.csv", [(user + 10**6, item + 10**6, r) for user, item, r in ratings])
    dataset = prepare(str(tmp_path / "x.csv"), str(tmp_path / "x"), SERIAL)
    with pytest.raises(InputError, match="have no user and no item in common"):
        train(
            dataset,
            str(tmp_path / "m"),
            small_settings(),
            SERIAL,
            initial_model=str(folder / "als"),
        )
    assert not (tmp_path / "m").exists()


def test_ids_of_another_type_are_refused(folder, tmp_path, ratings):
    write_csv(tmp_path / "x.csv", [(f"u{user}", item, r) for user, item, r in ratings])
    dataset = prepare(str(tmp_path / "x.csv"), str(tmp_path / "x"), SERIAL)
    with pytest.raises(InputError, match=r"user ids are whole numbers in .*als and text in"):
        train(
            dataset,
            str(tmp_path / "m"),
            small_settings(),
            SERIAL,
            initial_model=str(folder / "als"),
        )


def test_fit_starts_from_a_model(folder, tmp_path, client):
    """From a model in memory, or a path, as `train` does."""
    frame = pd.read_csv(folder / "new.csv")
    names = "rank", "bias_regularization", "factor_regularization"
    als = ALS(client=client, epochs=2, **{name: getattr(small_settings(), name) for name in names})
    model = ALSModel.load(str(folder / "als"))
    ways = [als.fit(frame, init_from=start) for start in (model, folder / "als")]
    cold = als.fit(frame)
    assert ways[0].history[-1].objective == ways[1].history[-1].objective
    assert ways[0].history[0].objective > cold.history[0].objective
    np.testing.assert_array_equal(ways[0].users.state.factors, ways[1].users.state.factors)


def test_fit_with_ratings_to_hold_out(ratings, client):
    frame = pd.DataFrame(ratings, columns=["userId", "movieId", "rating"])
    model = ALS(client=client, rank=2, epochs=1).fit(frame[:1300], test=frame[1300:])
    assert model.dataset.n_test == len(frame) - 1300
    assert model.history[-1].test_rmse > 0


def split_of(tmp_path, ratings, seed):
    """Prepare all but a tenth of the ratings, and ten of eleven of these; return both datasets."""
    shuffled = ratings.sample(frac=1, random_state=seed)
    n_test = len(shuffled) // 10
    n_old = (len(shuffled) - n_test) * 10 // 11
    parts = {
        "test": shuffled[:n_test],
        "old": shuffled[n_test : n_test + n_old],
        "new": shuffled[n_test:],
    }
    for name, rows in parts.items():
        rows.to_parquet(tmp_path / f"{name}.parquet", index=False)
    test = str(tmp_path / "test.parquet")
    return [
        prepare(str(tmp_path / f"{name}.parquet"), str(tmp_path / name), SERIAL, test=test)
        for name in ("old", "new")
    ]


def warm_and_cold(tmp_path, datasets, settings, seeds):
    """Return the figures of three epochs from a model of the first dataset, and of all epochs."""
    old, new = datasets
    train(old, str(tmp_path / "m"), settings, SERIAL)
    few = replace(settings, epochs=3)
    warm = train(new, str(tmp_path / "w"), few, SERIAL, initial_model=str(tmp_path / "m"))
    cold = [
        train(new, str(tmp_path / f"c{seed}"), replace(settings, seed=seed), SERIAL)
        for seed in seeds
    ]
    return warm.figures.test_rmse, [its.figures.test_rmse for its in cold]


def test_three_epochs_from_a_model_reach_fifteen_from_scratch(tmp_path):
    """With a tenth of the ratings new."""
    rows = generated(300, 150, 9000, seed=3)
    frame = pd.DataFrame(rows, columns=["userId", "movieId", "rating"])
    settings = TrainSettings(rank=8, epochs=15)
    warm, cold = warm_and_cold(tmp_path, split_of(tmp_path, frame, 0), settings, (0, 1, 2))
    assert warm <= max(cold)


@pytest.mark.slow
@pytest.mark.skipif(MOVIELENS is None, reason="needs the ratings of ml-latest-small")
def test_three_epochs_reach_fifteen_on_real_ratings(tmp_path):
    frame = pd.read_csv(MOVIELENS)
    warm, cold = warm_and_cold(tmp_path, split_of(tmp_path, frame, 0), TrainSettings(), (0, 1, 2))
    assert warm <= max(cold)
