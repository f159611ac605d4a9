import io
import json
from datetime import datetime

import pytest
from click.testing import CliRunner
from support.data import generated, write_csv

from dask_als.cli.console import Screen
from dask_als.cli.log import JsonLog, TextLog
from dask_als.cli.main import cli
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.jobs.result import StepResult
from dask_als.model import files as model_files
from dask_als.settings.data import PrepareSettings

FIGURES = EpochFigures(epoch=2, objective=-1234.5, train_rmse=0.61239, test_rmse=None, seconds=0.25)
ENDED = StepResult(
    step="train", status="done", seconds=1.5, path="/o/m", reason="new", figures={"rmse": 0.5}
)
SMALL = ["--method", "als", "--epochs", "3", "--rank", "4", "--dashboard", "127.0.0.1:0"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("logged")
    source = write_csv(directory / "r.csv", generated(60, 50, 1500, seed=6))
    settings = PrepareSettings(test_fraction=0.2, partitions=2)
    return prepare(str(source), str(directory / "d"), SerialExecutor(), settings=settings).path


def invoke(*arguments):
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def told(log):
    log.say("dashboard http://x/status")
    log.started("train", "no output yet", ["/o/m"])
    with log.preparing() as progress:
        progress("read", 1, 2)
        progress("read", 2, 2)
    with log.training(3) as listener:
        listener.epoch(FIGURES)
    with log.counting("predict") as progress:
        progress(1, 2)
        progress(2, 2)
    log.ended(ENDED)
    log.model("/o/m", FIGURES)


def test_a_json_object_a_line():
    file = io.StringIO()
    told(JsonLog(file))
    said = lines(file.getvalue())
    assert [line["event"] for line in said] == [
        *("message", "started", "prepared", "epoch", "counted", "ended", "model")
    ]
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in said)
    message, started, prepared, epoch, counted, ended, model = said
    assert message["message"] == "dashboard http://x/status"
    assert (started["step"], started["replaces"]) == ("train", ["/o/m"])
    assert (prepared["stage"], prepared["parts"]) == ("read", 2)
    assert (epoch["epoch"], epoch["epochs"], epoch["test_rmse"]) == (2, 3, None)
    assert (counted["what"], counted["total"]) == ("predict", 2)
    assert (ended["seconds"], ended["figures"]) == (1.5, {"rmse": 0.5})
    assert (model["path"], model["train_rmse"]) == ("/o/m", 0.61239)


def test_lines_for_people():
    file = io.StringIO()
    told(TextLog(Screen(file=file, width=20)))
    assert file.getvalue().split("\n") == [
        "dashboard http://x/status",
        "train: no output yet",
        "train: replaces /o/m",
        "epoch    2/3  objective -1,234.50  RMSE 0.6124  0.25 s",
        "train: 1.50 s",
        "train: rmse 0.5000",
        "objective -1,234.50  RMSE 0.6124",
        "model    /o/m",
        "",
    ]


def test_a_training_as_json_with_its_trace_and_performance_report(dataset, tmp_path):
    model, trace, page = (str(tmp_path / name) for name in ("m", "trace.jsonl", "page.html"))
    watched = ["--log-format", "json", "--trace", trace, "--performance-report", page]
    said = lines(invoke("train", dataset, model, *SMALL, *watched).stdout)
    assert [line["event"] for line in said] == ["message", *["epoch"] * 3, "model"]
    history = model_files.read_history(model)
    figures = [
        {name: line[name] for name in figures.to_json()}
        for line, figures in zip(said[1:], [*history, history[-1]], strict=True)
    ]
    assert figures == [figures.to_json() for figures in [*history, history[-1]]]
    with open(page, encoding="utf-8") as file:
        assert "Dask Performance Report" in file.read()
    with open(trace, encoding="utf-8") as file:
        first, *halves = lines(file.read())
    assert first == {"made_by": "dask_als", "kind": "trace"}
    sides = ("users", "items")
    assert [(its["epoch"], its["side"]) for its in halves] == [
        (epoch, side) for epoch in (1, 2, 3) for side in sides
    ]
    for half in halves:
        assert half["solving"] + half["waiting"] + half["overhead"] == pytest.approx(
            half["seconds"]
        )
        for number, part in enumerate(half["partitions"]):
            assert part["number"] == number
            assert part["worker"].startswith("tls://")
            spent = part["solving"] + part["waiting"] + part["overhead"]
            assert spent == pytest.approx(half["seconds"])


def test_the_result_of_a_training_has_standard_output_to_itself(dataset, tmp_path):
    arguments = ["train", dataset, str(tmp_path / "m"), *SMALL, "--json", "--log-format", "json"]
    result = invoke(*arguments)
    assert json.loads(result.stdout)["epoch"] == 3
    assert [line["event"] for line in lines(result.stderr)] == ["message", *["epoch"] * 3]


@pytest.mark.parametrize("option", ["--trace", "--performance-report"])
def test_a_file_that_cannot_be_written_is_told_before_training(dataset, tmp_path, option):
    arguments = ["train", dataset, str(tmp_path / "m"), *SMALL, option, str(tmp_path / "no" / "x")]
    result = CliRunner().invoke(cli, arguments)
    assert "cannot be written" in str(result.exception)
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_a_job_with_its_trace(tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(60, 50, 1500, seed=6))
    (tmp_path / "job.toml").write_text(
        f'output = "{tmp_path / "o"}"\nsteps = ["prepare", "train"]\n'
        f'[source]\npath = "{source}"\n[train]\nrank = 4\nepochs = 3\n'
    )
    trace = str(tmp_path / "trace.jsonl")
    arguments = ["run", str(tmp_path / "job.toml"), "--log-format", "json", "--trace", trace]
    said = lines(invoke(*arguments, "--dashboard", "127.0.0.1:0").stdout)
    events = [line["event"] for line in said]
    assert events.count("epoch") == 3
    assert events.count("started") == events.count("ended") == 2
    assert (events[0], events[-1]) == ("message", "result")
    with open(trace, encoding="utf-8") as file:
        assert len(lines(file.read())) == 1 + 6
