"""The examples in the commands' help, run as they are printed, where what they name is there."""

import json
import re
import shlex
import shutil
import zipfile
from pathlib import Path

import pytest
from support.data import generated, small_settings, write_csv

from dask_als.cli.main import COMMANDS, cli, main
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train

ON_KUBERNETES = {"submit", "launch", "status", "logs", "list", "stop", "resume", "delete"}
SERIAL = SerialExecutor()
WRITES = {"fetch": "ml-latest-small.zip", "generate": "ratings.csv", "prepare": "DATASET"}
WRITES |= {"train": "MODEL", "update": "MODEL2", "predict": "predictions.parquet"}
WITH_A_BAR = {
    "demo": "shuffle",
    "generate": "ratings",
    "prepare": "shuffle",
    "tune": "tune",
    "train": "epoch",
    "update": "epoch",
    "evaluate": "partitions",
    "predict": "chunks",
    "recommend": "tasks",
    "fold-in": "fold in",
    "report": "predict",
    "run": "epoch",
}


def examples(name):
    """The command lines after "Example:" in a command's help."""
    _, _, text = cli.get_command(None, name).help.partition("Example:")
    lines = re.findall(r"^ *dask-als (.*)$", text, re.MULTILINE)
    assert lines, f"{name} has no example"
    return [shlex.split(line) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What examples name: GroupLens' archive, ratings of new users, a dataset, a model, jobs."""
    folder = tmp_path_factory.mktemp("examples")
    rows = generated(80, 60, 2400, seed=2)
    number = {item: place for place, item in enumerate(sorted({item for _, item, _ in rows}))}
    item_ids = [296, 969, *range(1000, 1000 + len(number))]
    rows = [(300 + user, item_ids[number[item]], rating) for user, item, rating in rows]
    write_csv(folder / "old.csv", rows)
    write_csv(folder / "ratings.csv", [(user + 9000, *rest) for user, *rest in rows])
    write_csv(
        folder / "pairs.csv", [(user, item) for user, item, _ in rows[:50]], ("userId", "movieId")
    )
    write_csv(folder / "new-ratings.csv", [(user + 9000, *rest) for user, *rest in rows[:200]])
    for name, some in (("u1.base", rows[:900]), ("u1.test", rows[900:1000])):
        lines = ["\t".join(map(str, (*row, 900_000_000))) for row in some]
        (folder / name).write_text("\n".join(lines) + "\n")
    titles = [(item, f"Film {item}") for item in item_ids]
    write_csv(folder / "movies.csv", titles, header=("movieId", "title"))
    with zipfile.ZipFile(folder / "ml-latest-small.zip", "w") as archive:
        archive.write(folder / "old.csv", "ml-latest-small/ratings.csv")
        archive.write(folder / "movies.csv", "ml-latest-small/movies.csv")
    settings = PrepareSettings(test_fraction=0.1)
    source = str(folder / "ml-latest-small.zip")
    dataset = prepare(source, str(folder / "DATASET"), SERIAL, settings=settings)
    train(dataset, str(folder / "MODEL"), small_settings(), SERIAL)
    shutil.copytree(Path(__file__).parents[2] / "jobs", folder / "jobs")
    return folder


@pytest.fixture
def run(folder, tmp_path, client, request, monkeypatch, capfd):
    """Run a command as in a shell, in a copy of the folder, on the tests' cluster and web site."""
    here = tmp_path / "here"
    shutil.copytree(folder, here)
    monkeypatch.chdir(here)

    def run_command(arguments):
        name, *_ = arguments
        options = {option for param in cli.get_command(None, name).params for option in param.opts}
        # A plan is for a cluster that need not be there.
        if "--cluster" in options and name != "plan":
            arguments = [*arguments, "--cluster", client.scheduler.address]
        # The model names the dataset of the folder that was copied, which others use, too.
        if name == "update":
            arguments = [*arguments, "--dataset", "DATASET"]
        if "--base-url" in options:
            site, address = request.getfixturevalue("site")
            shutil.copy(folder / "ml-latest-small.zip", site)
            arguments = [*arguments, "--base-url", address]
        main(arguments)
        return capfd.readouterr().out

    return run_command


def make_room(name):
    """Take away what an example is to write."""
    path = Path(WRITES.get(name, "nothing"))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# A search takes its time.
HERE = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "tune" else [])
    for name in COMMANDS
    if name not in ON_KUBERNETES
]


@pytest.mark.parametrize("name", HERE)
def test_the_example_runs_and_tells_json(name, run):
    make_room(name)
    for arguments in examples(name):
        assert json.loads(run([*arguments, "--json"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_the_example_tells_a_person_in_a_terminal(name, run, monkeypatch):
    """The figures, and before them a bar if it can take long."""
    make_room(name)
    monkeypatch.setenv("FORCE_COLOR", "1")
    for number, arguments in enumerate(examples(name)):
        out = run(arguments)
        has_bar = re.search(f"{WITH_A_BAR.get(name, '')}.*━", out)
        assert has_bar if name in WITH_A_BAR and number == 0 else out


@pytest.mark.parametrize("name", sorted(ON_KUBERNETES))
def test_the_example_can_be_read(name):
    """They need a cluster; tests/test_kubernetes.py runs them there."""
    for _, *arguments in examples(name):
        assert cli.get_command(None, name).make_context(name, arguments).params
