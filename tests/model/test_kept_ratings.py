"""A model keeps what its methods need: in another process, place, and after pickling."""

import copy
import gc
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support.data import content, generated, small_settings, write_csv

from dask_als import ALSModel, InputError, LeftOutWarning
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS
from dask_als.data.prepare import Titles, prepare
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture
def place(tmp_path):
    """A dataset with titles, two partitions a side and a split, and a model of it."""
    write_csv(tmp_path / "r.csv", [*generated(20, 25, 250), (1, 2, "bad")])
    write_csv(tmp_path / "t.csv", [(n, f"Film {n}") for n in range(40)], ("movieId", "title"))
    dataset = prepare(
        str(tmp_path / "r.csv"),
        str(tmp_path / "data" / "d"),
        SERIAL,
        settings=PrepareSettings(test_fraction=0.2, partitions=2),
        titles=Titles(str(tmp_path / "t.csv")),
    )
    train(dataset, str(tmp_path / "models" / "m"), small_settings(), SERIAL)
    return tmp_path


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in ("data", "models"):
        (tmp_path / name).mkdir()


def answers(model):
    """What all methods say that need more than factors."""
    user, item = model.users.ids[0], model.items.ids[0]
    frames = [
        model.recommend(user, 5),
        model.recommend(model.users.ids[:3], 2),
        model.recommend_to(ITEMS, item, 3),
        model.rated_items(user),
        model.explain(user, item),
        model.similar_items(item, 3),
    ]
    return [frame.to_json() for frame in frames]


def test_a_saved_model_is_complete(place):
    model = ALSModel.load(place / "models" / "m")
    expected = answers(model)
    model.save(place / "saved")
    saved = content(place / "saved")
    for name in ("data", "models"):
        shutil.rmtree(place / name)
    os.rename(place / "saved", place / "moved")
    again = ALSModel.load(place / "moved")
    assert answers(again) == expected
    assert "Film" in again.rated_items(again.users.ids[0])["title"][0]
    assert again.dataset.path == str(place / "moved" / "ratings")
    assert again.dataset.n_test == model.dataset.n_test > 0
    assert content(place / "moved") == saved
    again.save(place / "moved", overwrite=True)  # over itself
    assert answers(ALSModel.load(place / "moved")) == expected


@pytest.mark.slow
def test_readmes_flow_in_two_processes(tmp_path):
    """Fit and save; move model and data; load elsewhere, and use every method."""
    write_csv(tmp_path / "r.csv", generated(15, 20, 150))
    first = "from dask_als import ALS; ALS(rank=2, epochs=1).fit('r.csv').save('model')"
    second = (
        "from dask_als import ALSModel; m = ALSModel.load('model'); user = m.users.ids[0]; "
        "print(len(m.recommend(user, 3)), len(m.rated_items(user)) > 0, "
        "len(m.explain(user, m.items.ids[0])) > 0)"
    )
    (tmp_path / "one").mkdir()
    os.rename(tmp_path / "r.csv", tmp_path / "one" / "r.csv")
    run(first, tmp_path / "one")
    os.rename(tmp_path / "one", tmp_path / "two")
    os.remove(tmp_path / "two" / "r.csv")
    assert run(second, tmp_path / "two") == "3 True True\n"


def run(code, folder):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_left_out_is_said(place):
    shutil.rmtree(place / "data")
    model = ALSModel.load(place / "models" / "m")
    with pytest.warns(LeftOutWarning, match="without training ratings and titles"):
        model.save(place / "saved")
    assert not (place / "saved" / "ratings").exists()
    again = ALSModel.load(place / "saved")
    user, item = again.users.ids[0], again.items.ids[0]
    assert again.predict(user, item) == model.predict(user, item)
    assert len(again.recommend(user, 3, seen=True)) == 3
    for method in (again.rated_items, again.recommend):
        with pytest.raises(InputError, match=r"name their dataset with dataset=\.\.\.") as error:
            method(user)
        assert "--" not in str(error.value)


def test_without_ratings_a_model_refers_to_its_dataset(place):
    model = ALSModel.load(place / "models" / "m")
    expected = answers(model)
    model.save(place / "models" / "light", ratings=False)
    assert not (place / "models" / "light" / "ratings").exists()
    (place / "elsewhere").mkdir()
    for name in ("data", "models"):
        os.rename(place / name, place / "elsewhere" / name)
    again = ALSModel.load(place / "elsewhere" / "models" / "light")
    assert again.dataset.path == str(place / "elsewhere" / "data" / "d")  # by the relative path
    assert answers(again) == expected


@pytest.mark.parametrize("way", ["beside", "named", "relative"])
def test_a_moved_dataset_is_found(place, way):
    expected = answers(ALSModel.load(place / "models" / "m"))
    dataset = place / "data" / "d"
    if way == "beside":
        os.rename(dataset, place / "models" / "d")
        model = ALSModel.load(place / "models" / "m")
    elif way == "named":
        os.rename(dataset, place / "other")
        assert ALSModel.load(place / "models" / "m").dataset is None
        model = ALSModel.load(place / "models" / "m", place / "other")
    else:
        os.rename(place / "models", place / "data" / "models")
        model = ALSModel.load(place / "data" / "models" / "m")
    assert answers(model) == expected


def test_another_dataset_at_the_same_path_is_not_taken(place):
    write_csv(place / "r.csv", generated(20, 25, 200, seed=5))
    prepare(str(place / "r.csv"), str(place / "data" / "d"), SERIAL, overwrite=True)
    assert ALSModel.load(place / "models" / "m").dataset is None


def test_a_pickled_model_takes_its_own_ratings_along(place):
    model = ALSModel.load(place / "models" / "m")
    model.save(place / "saved")
    saved = ALSModel.load(place / "saved")
    expected = answers(saved)
    pickled = pickle.dumps(saved)
    for name in ("data", "models", "saved"):
        shutil.rmtree(place / name)
    again = pickle.loads(pickled)
    assert answers(again) == expected
    folder = again.dataset.path
    again.save(place / "saved-again")
    assert answers(ALSModel.load(place / "saved-again")) == expected
    assert answers(copy.deepcopy(again)) == expected
    del again
    gc.collect()
    assert not os.path.exists(folder)


def test_a_pickled_model_refers_to_a_dataset_that_is_not_its_own(place):
    model = ALSModel.load(place / "models" / "m")
    model.users.with_unknown  # noqa: B018  what is computed is not pickled
    pickled = pickle.dumps(model)
    assert b"part-00000.parquet" not in pickled
    assert answers(pickle.loads(pickled)) == answers(model)


def test_a_damaged_copy_is_an_error(place):
    ALSModel.load(place / "models" / "m").save(place / "saved")
    (part, *_) = sorted((place / "saved" / "ratings" / "by_user").iterdir())
    part.write_bytes(part.read_bytes()[:-1])
    model = ALSModel.load(place / "saved")
    with pytest.raises(InputError, match="is damaged"):
        model.rated_items(model.users.ids[0])
    with pytest.raises(InputError, match="is damaged"):
        model.save(place / "again")
    assert not (place / "again").exists()


def test_several_users_get_what_each_gets(place):
    model = ALSModel.load(place / "models" / "m")
    users = model.users.ids[::-1][:7]
    together = model.recommend(users, 4)
    alone = [model.recommend(user, 4).assign(user_id=user) for user in users]
    expected = pd.concat(alone, ignore_index=True)[together.columns]
    pd.testing.assert_frame_equal(together, expected)
    assert model.recommend([], 4).empty
