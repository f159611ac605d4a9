"""Commands that use a model: unknown ids, moved datasets, and messages in options."""

import json
import os
import subprocess
import sys

import pytest
from support.data import generated, small_settings, write_csv

from dask_als.cli.main import main
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import Titles, prepare
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture
def place(tmp_path):
    rows = [(f"u{user}", item, rating) for user, item, rating in generated(20, 40, 200)]
    write_csv(tmp_path / "r.csv", rows)
    write_csv(tmp_path / "t.csv", [(n, f"Film {n}") for n in range(999)], ("movieId", "title"))
    os.mkdir(tmp_path / "data")
    dataset = prepare(
        str(tmp_path / "r.csv"),
        str(tmp_path / "data" / "d"),
        SERIAL,
        settings=PrepareSettings(test_fraction=0.5),
        titles=Titles(str(tmp_path / "t.csv")),
    )
    train(dataset, str(tmp_path / "m"), small_settings(), SERIAL)
    return tmp_path


@pytest.fixture
def run(place, capsys):
    def run_command(name, *arguments):
        code = 0
        try:
            main([name, str(place / "m"), *map(str, arguments)])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run_command


@pytest.fixture
def item(place):
    """The item with the most ratings."""
    items = ALSModel.load(place / "m").items
    return items.ids[items.counts.argmax()]


def test_a_misspelt_id_is_said(run):
    code, out, err = run("recommend", "--to", "u1-misspelt", "-k", 2, "--json")
    assert code == 0
    assert err == ("user 'u1-misspelt' is not in the model; it gets the overall best items\n")
    assert len(json.loads(out)) == 2
    assert run("recommend", "--to", "u1", "-k", 2, "--json")[2] == ""


def test_the_dataset_need_not_be_named(run, place):
    code, _, err = run("recommend", "--out", place / "best", "--cluster", "serial")
    assert (code, err) == (0, "")
    assert (place / "best" / "part-00000.parquet").exists()


@pytest.mark.parametrize("command", ["explain", "recommend"])
def test_a_dataset_that_is_gone_is_named_by_an_option(run, place, item, command):
    os.rename(place / "data", place / "elsewhere")
    arguments = ["u1", item] if command == "explain" else ["--to", "u1"]
    code, _, err = run(command, *arguments)
    assert code == 2
    assert "name their dataset with --dataset" in err
    assert "dataset=" not in err


def test_a_moved_dataset_is_found_or_named(run, place, item):
    expected = run("explain", "u1", item, "--json")
    assert expected[0] == 0
    os.rename(place / "data" / "d", place / "d")  # beside the model
    assert run("explain", "u1", item, "--json") == expected
    os.rename(place / "d", place / "other")
    assert run("explain", "u1", item, "--json", "--dataset", place / "other") == expected
    _, out, _ = run("recommend", place / "other", "--to", "u1", "--json")
    assert "Film" in json.loads(out)[0]["title"]


def test_similar_to_an_item_without_ratings(run, item):
    rated = json.loads(run("similar", item, "-k", 99, "--least-ratings", 1, "--json")[1])
    everything = json.loads(run("similar", item, "-k", 99, "--json")[1])
    unrated = {row["item_id"] for row in everything} - {row["item_id"] for row in rated}
    assert unrated
    code, _, err = run("similar", min(unrated))
    assert code == 2
    assert f"item {min(unrated)} has no training rating" in err


@pytest.mark.parametrize(
    "command",
    [("similar", "{item}"), ("explain", "{user}", "{item}"), ("recommend", "--to", "{user}")],
)
def test_what_needs_no_cluster_and_no_kernel_imports_neither(place, item, command):
    """Numba and Dask take longer to import than these commands to compute."""
    name, *arguments = (word.format(user="u1", item=item) for word in command)
    program = (
        "import sys\n"
        "from dask_als.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "heavy = {'numba', 'llvmlite', 'dask', 'distributed', 'scipy', 'dask_als.data.prepare'}\n"
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, name, str(place / "m"), *arguments],
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) > 5
