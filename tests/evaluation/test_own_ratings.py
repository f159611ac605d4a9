"""Evaluation on ratings that the dataset of a model does not hold."""

import json
import os

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.data import generated, small_settings, write_csv

from dask_als import ALSModel, Columns, InputError
from dask_als.cli.main import main
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.evaluation.evaluate import evaluate
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    write_csv(root / "r.csv", generated(40, 30, 500))
    settings = PrepareSettings(test_fraction=0.3, partitions=3)
    dataset = prepare(str(root / "r.csv"), str(root / "d"), SERIAL, settings=settings)
    train(dataset, str(root / "m"), small_settings(), SERIAL)
    return root


@pytest.fixture(scope="module")
def model(root):
    return ALSModel.load(root / "m")


@pytest.fixture(scope="module")
def held_out(root, model):
    """The held-out ratings as a frame."""
    table = pd.concat(
        [pq.read_table(path).to_pandas() for path in sorted((root / "d" / "test").iterdir())]
    )
    return pd.DataFrame(
        {
            "userId": model.users.ids[table["user"]],
            "movieId": model.items.ids[table["item"]],
            "rating": table["rating"],
        }
    )


@pytest.mark.parametrize("relevant_from", [None, 4.0])
def test_equals_the_evaluation_of_the_same_ratings_in_the_dataset(
    root, model, held_out, relevant_from
):
    settings = EvaluateSettings(k=5, relevant_from=relevant_from)
    expected = evaluate(str(root / "m"), model.dataset, SERIAL, settings)
    found = model.evaluate(held_out, k=5, relevant_from=relevant_from)
    assert list(found.errors) == list(expected.errors)
    for name in found.errors:
        assert found.errors[name].rmse == pytest.approx(expected.errors[name].rmse, abs=1e-12)
        assert found.errors[name].mae_clipped == pytest.approx(
            expected.errors[name].mae_clipped, abs=1e-12
        )
    for name in ("model", "most popular"):
        assert found.ranking[name] == expected.ranking[name]
    assert found.n_test == expected.n_test == len(held_out)
    assert found.n_lists == expected.n_lists
    assert found.held_out_popularity == expected.held_out_popularity
    assert (found.n_cold, found.cold_users) == (expected.n_cold, expected.cold_users)


def test_unknown_ids_are_cold_and_no_hits(model, held_out):
    user = held_out["userId"].iloc[0]
    unknown = pd.DataFrame(
        {"userId": [user, 10_001, 10_001], "movieId": [20_002, 20_002, 20_003], "rating": 4.0}
    )
    found = model.evaluate(unknown, k=3)
    assert (found.n_test, found.n_cold, found.cold_users, found.cold_items) == (3, 3, 1, 2)
    assert found.n_lists == 2
    assert found.ranking["model"].recall == 0
    predicted = model.predict(unknown["userId"], 20_002, unknown="ignore")
    expected = np.sqrt(np.mean((predicted - 4.0) ** 2))
    assert found.errors["model"].rmse == pytest.approx(expected)
    mixed = model.evaluate(pd.concat([held_out, unknown]), k=3)
    assert mixed.ranking["model"].recall < model.evaluate(held_out, k=3).ranking["model"].recall


def test_ids_of_another_type(model, held_out):
    with pytest.raises(InputError, match="of type str; user ids of this model are whole numbers"):
        model.evaluate(held_out.assign(userId="u" + held_out["userId"].astype(str)))


def test_a_path_and_its_columns(tmp_path, model, held_out):
    path = tmp_path / "test.csv"
    renamed = held_out.rename(columns={"userId": "who", "movieId": "what", "rating": "stars"})
    renamed.to_csv(path, index=False)
    columns = Columns(user="who", item="what", rating="stars")
    assert model.evaluate(path, columns=columns) == model.evaluate(held_out)


@pytest.mark.parametrize("cluster", ["serial"])
def test_the_command(tmp_path, root, model, held_out, capsys, cluster):
    path = tmp_path / "test.csv"
    held_out.to_csv(path, index=False)
    main(["evaluate", str(root / "m"), "--on", str(path), "--cluster", cluster, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(model.evaluate(held_out).to_json()))
    assert sorted(os.listdir(tmp_path)) == ["test.csv"]


def test_the_command_finds_the_dataset_of_the_model(root, capsys):
    for arguments in ([], [str(root / "d")]):
        main(["evaluate", str(root / "m"), *arguments, "--cluster", "serial", "--json"])
    first, second = capsys.readouterr().out.split("}\n{")
    assert first.strip("{}\n") == second.strip("{}\n")


def test_nothing_relevant_is_said(root, capsys):
    main(
        [
            "evaluate",
            str(root / "m"),
            str(root / "d"),
            "--relevant-from",
            "10",
            "--cluster",
            "serial",
        ]
    )
    shown = capsys.readouterr()
    assert "no held-out rating of at least 10, so there are no ranked lists" in shown.err
    assert "Lists of" not in shown.out


def test_options_of_a_file_without_one(root, capsys):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(root / "m"), "--user-col", "u", "--cluster", "serial"])
    assert end.value.code == 2
    assert "need --on FILE" in capsys.readouterr().err
