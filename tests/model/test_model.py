import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support.data import generated, notebook_settings, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.block_files import read_block
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import Titles, prepare
from dask_als.errors import InputError, UnknownIdWarning
from dask_als.model import in_memory
from dask_als.model import manifest as model_manifest
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.solvers.base import SolvedSide
from dask_als.solvers.least_squares import solve_part
from dask_als.solvers.objective import NO_SUMS
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A dataset with titles, and a model trained on it."""
    directory = tmp_path_factory.mktemp("model")
    rows = generated(30, 40, 500, seed=2)
    source = write_csv(directory / "ratings.csv", rows)
    titles = write_csv(
        directory / "titles.csv",
        [(item, f"Film {item}, The") for item in sorted({row[1] for row in rows})[:-3]],
        header=("movieId", "title"),
    )
    dataset = prepare(str(source), str(directory / "dataset"), SERIAL, titles=Titles(str(titles)))
    train(dataset, str(directory / "model"), small_settings(dtype="float64"), SERIAL)
    return directory


@pytest.fixture(scope="module")
def rows(directory):
    return pd.read_csv(directory / "ratings.csv")


@pytest.fixture(scope="module")
def model(directory):
    return ALSModel.load(str(directory / "model"))


def predicted(model, user, item):
    """The prediction of one pair, from the equation."""
    m, n = model.users.ids.get_loc(user), model.items.ids.get_loc(item)
    users, items = model.users.state, model.items.state
    product = sum(u * v for u, v in zip(users.factors[m], items.factors[n], strict=True))
    return model.manifest.global_mean + users.bias[m] + items.bias[n] + product


@pytest.mark.parametrize("at", ["users", "items", "history"])
def test_a_model_that_is_replaced_while_it_is_loaded(directory, tmp_path, monkeypatch, at):
    """Never a part of each; what is damaged is still told."""
    dataset = open_dataset(str(directory / "dataset"))
    after, served = tmp_path / "after", tmp_path / "served"
    train(dataset, str(after), small_settings(dtype="float64", seed=9), SERIAL)
    shutil.copytree(directory / "model", served)
    read_rows, read_history = in_memory.read_model_rows, in_memory.model_files.read_history
    places = []

    def reads(read, place):
        places.append(place)
        if place == at and places.count(place) == 1:
            shutil.rmtree(served)
            shutil.copytree(after, served)
        return read()

    monkeypatch.setattr(
        in_memory,
        "read_model_rows",
        lambda path, manifest, side: reads(lambda: read_rows(path, manifest, side), side.name),
    )
    monkeypatch.setattr(
        in_memory.model_files,
        "read_history",
        lambda path, manifest: reads(lambda: read_history(path, manifest), "history"),
    )
    loaded, expected = ALSModel.load(served), ALSModel.load(after)
    assert loaded.manifest == expected.manifest
    assert loaded.history == expected.history
    for side in SIDES:
        np.testing.assert_array_equal(
            loaded.rows(side).state.factors, expected.rows(side).state.factors
        )
    (served / "history.jsonl").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        ALSModel.load(served)


def test_predict(model, rows):
    users, items = rows["userId"][:50], rows["movieId"][:50]
    expected = [predicted(model, *pair) for pair in zip(users, items, strict=True)]
    np.testing.assert_allclose(model.predict(users, items), expected, rtol=1e-12)
    assert model.predict(users[0], items[0]) == pytest.approx(expected[0], rel=1e-12)
    assert isinstance(model.predict(users[0], items[0]), float)
    np.testing.assert_allclose(
        model.predict(users[0], items[:5]), [predicted(model, users[0], i) for i in items[:5]]
    )


def test_unknown_ids_fall_back_to_what_is_known(model):
    user, item = model.users.ids[3], model.items.ids[7]
    mean, item_bias = model.manifest.global_mean, model.items.state.bias[7]
    with pytest.warns(UnknownIdWarning, match="user -1 is not in the model; means and biases"):
        predicted = model.predict(-1, item)
    assert predicted == pytest.approx(mean + model.users.state.bias.mean() + item_bias, rel=1e-9)
    assert model.predict(user, -1, unknown="ignore") == pytest.approx(
        mean + model.users.state.bias[3] + model.items.state.bias.mean(), rel=1e-9
    )
    with pytest.warns(UnknownIdWarning) as warned:
        assert np.isfinite(model.predict([-1, user], [-1, -1])).all()
    assert [str(one.message).split(",")[0] for one in warned] == [
        "1 of 2 user ids are not in the model",
        "2 of 2 item ids are not in the model",
    ]


@pytest.mark.parametrize("user", ["nobody", "1", 1.5, True, None])
def test_ids_of_another_type_never_get_the_fallback(model, user):
    item = model.items.ids[7]
    for attempt in (
        lambda: model.predict(user, item),
        lambda: model.predict([model.users.ids[0], user], item),
        lambda: model.recommend(user),
        lambda: model.rated_items(user),
        lambda: model.explain(user, item),
        lambda: model.fold_in_item({user: 3.0}),
    ):
        with pytest.raises(InputError, match="user ids of this model are whole numbers"):
            attempt()


def test_other_numbers_of_users_and_items(model):
    with pytest.raises(InputError, match="there are 3 users and 2 items; give as many of both"):
        model.predict(model.users.ids[:3], model.items.ids[:2])


def test_a_prediction_has_the_same_bits_everywhere(model):
    user = model.users.ids[4]
    recommended = model.recommend(user, 40, seen=True)
    items = recommended["item_id"]
    assert model.predict(user, items).tolist() == recommended["score"].tolist()
    folded = model.fold_in(dict(zip(items[:5], [4.0, 3.0, 1.0, 5.0, 2.0], strict=True)))
    best = folded.recommend(10)
    scores = folded.scores[model.items.ids.get_indexer(best["item_id"])]
    assert best["score"].tolist() == scores.tolist()


def test_similar_to_a_row_without_ratings(tmp_path):
    """One that only held-out ratings mention."""
    source = write_csv(tmp_path / "r.csv", generated(20, 60, 150))
    settings = PrepareSettings(test_fraction=0.5)
    dataset = prepare(str(source), str(tmp_path / "d"), SERIAL, settings=settings)
    train(dataset, str(tmp_path / "m"), small_settings(), SERIAL)
    model = ALSModel.load(tmp_path / "m")
    (row, *_) = np.flatnonzero(model.items.counts == 0)
    item = model.items.ids[row]
    with pytest.raises(InputError, match=f"item {item} has no training rating, so its factors"):
        model.similar_items(item)


def test_recommend_ranks_unseen_items(model, rows):
    user = model.users.ids[4]
    seen = set(rows["movieId"][rows["userId"] == user])
    expected = sorted(
        (
            (-predicted(model, user, item), place)
            for place, item in enumerate(model.items.ids)
            if item not in seen
        )
    )[:5]
    found = model.recommend(user, 5)
    assert found["rank"].tolist() == [1, 2, 3, 4, 5]
    assert found["item_id"].tolist() == [model.items.ids[place] for _, place in expected]
    np.testing.assert_allclose(found["score"], [-score for score, _ in expected])
    assert all(found["title"] == [f"Film {item}, The" for item in found["item_id"]])


def test_recommend_more_than_there_are(model, rows):
    user = model.users.ids[4]
    n_seen = (rows["userId"] == user).sum()
    assert len(model.recommend(user, 1000)) == 40 - n_seen
    assert len(model.recommend(user, 1000, seen=True)) == 40
    with pytest.raises(InputError, match="k is 0"):
        model.recommend(user, 0)


def test_recommend_to_an_unknown_user(model):
    with pytest.warns(UnknownIdWarning, match="user -1 is not in the model"):
        found = model.recommend(-1, 3)
    with pytest.raises(InputError, match="user -1 is not in the model"):
        model.recommend(-1, 3, unknown="error")
    best = np.argsort(-model.items.state.bias)[:3]
    assert found["item_id"].tolist() == model.items.ids[best].tolist()


def test_similar_items(model):
    item = model.items.ids[5]
    found = model.similar_items(item, 4)
    factors = model.items.state.factors
    cosine = factors @ factors[5] / np.linalg.norm(factors, axis=1) / np.linalg.norm(factors[5])
    cosine[5] = -2
    best = np.argsort(-cosine)[:4]
    assert found["item_id"].tolist() == model.items.ids[best].tolist()
    np.testing.assert_allclose(found["score"], cosine[best])
    with pytest.raises(InputError, match="item -1 is not in the model"):
        model.similar_items(-1)


def test_similar_items_with_enough_ratings(model):
    item = model.items.ids[5]
    everything = model.similar_items(item, 100)
    enough = set(model.items.ids[model.items.counts >= 10])
    found = model.similar_items(item, 100, least_ratings=10)
    assert found["item_id"].tolist() == [i for i in everything["item_id"] if i in enough]
    assert 0 < len(found) < len(everything)


def test_similar_users(model):
    found = model.similar_users(model.users.ids[0], 3)
    assert list(found.columns) == ["rank", "user_id", "score"]
    assert len(found) == 3


def test_rated_items(model, rows):
    user = model.users.ids[2]
    expected = rows[rows["userId"] == user].sort_values(
        ["rating", "movieId"], ascending=[False, True]
    )
    found = model.rated_items(user)
    assert found["item_id"].tolist() == expected["movieId"].tolist()
    assert found["rating"].tolist() == expected["rating"].tolist()


def test_fold_in_solves_the_same_equations(model, rows):
    """A new user with an old user's ratings: bias from factors of 0, then the exact solve."""
    user = model.users.ids[6]
    ratings = rows[rows["userId"] == user].set_index("movieId")["rating"].to_dict()
    folded = model.fold_in(ratings)
    settings = model.settings
    places = model.items.ids.get_indexer(list(ratings))
    fixed = model.items.state.factors[places]
    y = np.array(list(ratings.values())) - model.manifest.global_mean
    y -= model.items.state.bias[places]
    bias = y.sum() / (len(y) + settings.bias_regularization)
    ridge = settings.factor_regularization * np.eye(settings.rank)
    factors = np.linalg.solve(fixed.T @ fixed + ridge, fixed.T @ (y - bias))
    assert folded.bias == pytest.approx(bias, abs=1e-12)
    np.testing.assert_allclose(folded.factors, factors, atol=1e-12)
    assert not set(folded.recommend(5)["item_id"]) & set(ratings)
    assert folded.scores[3] == pytest.approx(
        model.manifest.global_mean
        + bias
        + model.items.state.bias[3]
        + model.items.state.factors[3] @ factors
    )


def test_fold_in_equals_a_half_epoch(model, directory):
    """From the same old factors, a row of the half-epoch does not know that it is alone."""
    dataset = model.dataset
    block = read_block(dataset.path, USERS, 0, dataset.users.partitions[0])
    own = SolvedSide(
        type(model.users.state)(
            np.zeros_like(model.users.state.bias), np.zeros_like(model.users.state.factors)
        ),
        NO_SUMS,
        0.0,
    )
    fixed = SolvedSide(model.items.state, NO_SUMS, 0.0)
    part = solve_part(USERS, block, own, fixed, model.manifest.global_mean, model.settings)
    for row in (0, 11, dataset.users.n_rows - 1):
        its = slice(block.indptr[row], block.indptr[row + 1])
        items = model.items.ids[block.indices[its]]
        folded = model.fold_in(dict(zip(items, block.ratings[its].tolist(), strict=True)))
        np.testing.assert_allclose(folded.factors, part.solution.factors[row], atol=1e-9)
        assert folded.bias == pytest.approx(part.solution.bias[row], abs=1e-9)


def test_fold_in_an_item(model):
    folded = model.fold_in_item({model.users.ids[0]: 5.0, model.users.ids[1]: 4.0})
    assert len(folded.scores) == len(model.users.ids)
    assert "user_id" in folded.recommend(2)


def test_fold_in_refuses_what_it_does_not_know(model):
    with pytest.raises(InputError, match="item -5 is not in the model"):
        model.fold_in({-5: 3.0})
    with pytest.raises(InputError, match="finite"):
        model.fold_in({model.items.ids[0]: float("nan")})
    assert model.fold_in({}).bias == model.users.mean_bias


def test_save_and_load(model, tmp_path):
    path = str(tmp_path / "copy")
    model.save(path)
    copy = ALSModel.load(path)
    assert replace(copy.manifest, dataset=model.manifest.dataset) == model.manifest
    assert copy.dataset.fingerprint == model.dataset.fingerprint
    assert copy.history == model.history
    for side in SIDES:
        its, original = copy.rows(side), model.rows(side)
        assert its.ids.equals(original.ids)
        np.testing.assert_array_equal(its.counts, original.counts)
        np.testing.assert_array_equal(its.state.bias, original.state.bias)
        np.testing.assert_array_equal(its.state.factors, original.state.factors)
    with pytest.raises(InputError, match="overwrite=True"):
        model.save(path)


def test_without_its_dataset(directory, tmp_path):
    """Scores need no dataset; what was seen, and titles, do."""
    for name in ("model", "dataset"):
        (tmp_path / name).symlink_to(directory / name)
    moved = tmp_path / "moved"
    __import__("shutil").copytree(directory / "model", moved)
    manifest = model_manifest.read_manifest(str(moved))
    elsewhere = replace(manifest, dataset={**manifest.dataset, "path": "/no/where"})
    model_manifest.write_manifest(str(moved), elsewhere)
    model = ALSModel.load(str(moved))
    user = model.users.ids[0]
    with pytest.raises(
        InputError, match="training ratings of users are neither in the model nor at /no/where"
    ):
        model.recommend(user)
    assert list(model.recommend(user, 2, seen=True).columns) == ["rank", "item_id", "score"]
    again = ALSModel.load(str(moved), str(directory / "dataset"))
    assert "title" in again.recommend(user)


def test_a_dataset_that_is_not_its_own(directory, tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(30, 40, 500, seed=3))
    prepare(str(source), str(tmp_path / "other"), SERIAL)
    with pytest.raises(InputError, match=r"was not trained on .*other"):
        ALSModel.load(str(directory / "model"), str(tmp_path / "other"))


def test_titles_that_are_missing_are_named_by_id(model):
    first, last = model.items.ids[0], model.items.ids[-1]
    assert model.name_of(first) == f"Film {first}, The"
    assert model.name_of(last) == str(last)


def test_ids_from_the_command_line(model):
    assert model.users.parse("3") == 3
    with pytest.raises(InputError, match="user ids are whole numbers here, not 'me'"):
        model.users.parse("me")


def test_text_ids(tmp_path):
    rows = [(f"u{user}", f"film {item}", rating) for user, item, rating in generated(9, 12, 50)]
    source = write_csv(tmp_path / "r.csv", rows)
    dataset = prepare(str(source), str(tmp_path / "d"), SERIAL)
    train(dataset, str(tmp_path / "m"), notebook_settings(epochs=1), SERIAL)
    model = ALSModel.load(str(tmp_path / "m"))
    assert model.predict("u3", rows[0][1]) == predicted(model, "u3", rows[0][1])
    assert model.recommend("u3", 2)["item_id"].str.startswith("film").all()
    assert model.rows(ITEMS).parse("film 7") == "film 7"
