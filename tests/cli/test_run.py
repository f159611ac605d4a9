"""``dask-als run``, as a person or a runner's pod uses it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.data import content, generated, small_settings, write_csv

from dask_als.cli.main import main
from dask_als.core.executor import SerialExecutor
from dask_als.core.output_lock import held
from dask_als.data.dataset import open_dataset
from dask_als.training.train import train

JOB = """
output = "o"
steps = ["prepare", "train", "evaluate", "recommend"]
source.path = "r.csv"
prepare = { test_fraction = 0.2, partitions = 2 }
train = { rank = 4, epochs = 3, bias_regularization = 1, factor_regularization = 2 }
checkpoint.every = 2
"""


@pytest.fixture
def folder(tmp_path):
    write_csv(tmp_path / "r.csv", generated(40, 50, 900))
    (tmp_path / "small.toml").write_text(JOB)
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "dask_als", "run", *arguments, "--dashboard=127.0.0.1:0"]


def run(folder, *arguments):
    """Run it in a process of its own and return exit code, output and errors."""
    done = subprocess.run(
        command("small.toml", *arguments), cwd=folder, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run_here(folder, capsys, monkeypatch):
    """Run it in this process and return exit code, output and errors."""
    monkeypatch.chdir(folder)

    def run_command(*arguments):
        code = 0
        try:
            main(["run", "small.toml", *arguments])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run_command


def test_what_it_says(folder):
    code, out, err = run(folder)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "prepare: no output yet" in lines
    assert [line for line in lines if line.startswith("epoch    3/3  objective")]
    assert any(line.startswith("prepare: users 40, items ") for line in lines)
    evaluated = [line for line in lines if line.startswith("evaluate: ratings ")]
    assert re.search(r"rmse \(model 0\.\d{4}, global mean \d", evaluated[0])
    for name in ("dataset", "model", "evaluation.json", "recommendations", "result.json"):
        assert any(line.endswith(f"/o/{name}") for line in lines)
        assert (folder / "o" / name).exists()
    code, out, err = run(folder, "--set", "train.rank=5")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "prepare: skipped, nothing has changed" in lines
    assert "train: changed: rank" in lines
    assert f"train: replaces {folder}/o/model" in lines
    assert f"train: replaces {folder}/o/checkpoints" in lines


def test_the_result_as_json_with_a_name(folder, run_here):
    named = ["--json", "--run-id", "monday", "--set", "train.rank=7"]
    code, out, err = run_here(*named, "--cluster", "serial")
    assert code == 0
    result = json.loads(out)
    marker = {"made_by": "dask_als", "kind": "job result"}
    assert {**marker, **result} == json.loads((folder / "o" / "result.json").read_text())
    assert (result["run_id"], result["job"], result["status"]) == ("monday", "small", "succeeded")
    assert json.loads((folder / "o" / "model" / "model.json").read_text())["settings"]["rank"] == 7
    assert "epoch    3/3" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "train.rnak=7"], "train.rnak is not known; the nearest is train.rank"),
        (["--set", "train.rank=seven"], "train.rank is 'seven'; it must be a whole number"),
        (["--set", "source.path=nowhere"], "no file or folder at nowhere"),
        (["--cluster", "somewhere"], "--cluster is 'somewhere'; it must be local, kubernetes or"),
    ],
)
def test_a_mistake_in_one_line(run_here, arguments, said):
    code, out, err = run_here(*arguments, "--json")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_what_cannot_be_done_ends_with_1(folder, run_here):
    code, out, err = run_here("--cluster", "tcp://127.0.0.1:1", "--timeout", "0.5s", "--json")
    assert (code, out) == (1, "")
    assert err == "dask-als: there is no scheduler at tcp://127.0.0.1:1\n"
    result = json.loads((folder / "o" / "result.json").read_text())
    assert (result["status"], result["exit_code"]) == ("failed", 1)


def test_an_output_that_another_run_uses(folder, run_here):
    with held(str(folder / "o"), "the-other"):
        code, out, err = run_here("--cluster", "serial")
    assert (code, out) == (2, "")
    assert err.startswith(f"dask-als: {folder}/o is in use by run the-other on ")


@pytest.mark.slow
def test_after_a_kill_it_goes_on_to_the_same_bits(folder):
    changes = ["--set", "train.epochs=150", "--set", "checkpoint.every=10"]
    with subprocess.Popen(
        command("small.toml", *changes), cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        assert any(line.startswith("epoch   12/150") for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert json.loads((folder / "o" / "result.json").read_text())["status"] == "running"
    assert not (folder / "o" / "model").exists()
    code, out, err = run(folder, *changes)
    assert code == 0
    # One line for each thing that the killed run left.
    assert all(line.endswith(", which a killed run had left") for line in err.splitlines())
    assert "prepare: skipped, nothing has changed" in out
    epochs = [int(line[5:].split("/")[0]) for line in out.splitlines() if line.startswith("epoch")]
    assert epochs[0] > 10
    assert epochs[-1] == 150
    undisturbed = str(Path(folder) / "undisturbed")
    dataset = open_dataset(str(folder / "o" / "dataset"))
    train(dataset, undisturbed, small_settings(epochs=150), SerialExecutor())
    assert content(str(folder / "o" / "model")) == content(undisturbed)
