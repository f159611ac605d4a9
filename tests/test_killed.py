"""A kill at any moment leaves the old or the new output at its path, and the next run is clean."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from data import generated, write_csv

from dask_als import ownership
from dask_als.ownership import CHECKPOINT, DATASET, MODEL, RECOMMENDATIONS

N_KILLS = int(os.environ.get("DASK_ALS_KILLS", "24"))
"""How many processes are killed, spread over commands and system calls."""

CALLS = ["rename,renameat2", "fsync", "unlink,rmdir", "mkdir", "openat", "write"]

# Without a cluster: its processes are no part of what is written, and take long to start.
SCRIPT = """
import logging, sys
from dask_als.dataset import open_dataset
from dask_als.executor import SerialExecutor
from dask_als.settings import *
name, source, folder = sys.argv[1:]
from dask_als import prepare, train, recommend, report, job_file, job_result, run_job, generate
S = SerialExecutor()
settings = TrainSettings(rank=2, epochs=2)
its = PrepareSettings(test_fraction=0.2, partitions=1)
if name == "prepare":
    prepare.prepare(source, f"{folder}/dataset", S, settings=its, overwrite=True)
elif name == "train":
    checkpoints = CheckpointSettings(directory=f"{folder}/checkpoints", every=1)
    train.train(open_dataset(f"{folder}/dataset"), f"{folder}/model", settings, S,
                checkpoints=checkpoints, overwrite=True)
elif name == "recommend":
    recommend.recommend(f"{folder}/model", open_dataset(f"{folder}/dataset"),
                        f"{folder}/recommendations", S, RecommendSettings(k=2), overwrite=True)
elif name == "report":
    report.write_report(f"{folder}/report.html", "<html><head></head></html>")
elif name == "run":
    job = job_file.job_from_toml(
        f'name = "j"\\noutput = "{folder}/o"\\nsource.path = "{source}"\\n'
        "prepare = { test_fraction = 0.2, partitions = 1 }\\n"
        "train = { rank = 2, epochs = 2 }\\ncheckpoint = { every = 1 }\\n")
    with job_result.recorded(job) as result:
        run_job.run_job(job, S, result)
elif name == "generate":
    generate.write_ratings(
        generate.GenerateSettings(n_users=9, n_items=9, n_ratings=30), f"{folder}/generated")
"""
COMMANDS = ["prepare", "train", "recommend", "report", "run", "generate"]


def strace():
    """Return the path of strace where it can inject faults, else None."""
    path = shutil.which("strace")
    if path is None:
        return None
    tried = subprocess.run([path, "-o", "/dev/null", "true"], check=False, capture_output=True)
    return path if tried.returncode == 0 else None


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the output of each command, and the source they were made of."""
    folder = tmp_path_factory.mktemp("made")
    source = str(write_csv(folder / "r.csv", generated(20, 20, 200)))
    (folder / "f").mkdir()
    for name in COMMANDS:
        done = run(name, source, str(folder / "f"))
        assert done.returncode == 0, done.stderr
    return folder / "f", source


def run(name, source, folder, before=()):
    command = [*before, sys.executable, "-c", SCRIPT, name, source, folder]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def check_whole(folder):
    """Check that each output at its path is complete, and of its kind."""
    for path, kind in {
        "dataset": DATASET,
        "model": MODEL,
        "recommendations": RECOMMENDATIONS,
        "o/dataset": DATASET,
        "o/model": MODEL,
        "o/recommendations": RECOMMENDATIONS,
        "checkpoints/epoch-00001": CHECKPOINT,
    }.items():
        place = os.path.join(folder, path)
        if not path.startswith("checkpoints") or os.path.lexists(place):
            for file in ownership.files_of(place, kind):
                assert os.path.exists(os.path.join(place, file)), file
    with open(os.path.join(folder, "o", "result.json")) as file:
        assert json.load(file)["made_by"] == "dask_als"
    with open(os.path.join(folder, "report.html")) as file:
        assert file.read().endswith("</html>")


def left(folder):
    return [
        os.path.join(above, name)
        for above, names, files in os.walk(folder)
        for name in [*names, *files]
        if re.search(r"partial|\.lock|\.old|\.replacing", name)
    ]


def calls_of(name, made, tmp_path, calls):
    """Return how many of some system calls a command makes after its imports, and before."""
    folder = tmp_path / f"count-{name}-{calls.split(',')[0]}"
    shutil.copytree(made[0], folder)
    log = str(tmp_path / "log")
    traced = [strace(), "-f", "-o", log, "-e", f"trace={calls}", "-e", "signal=none"]
    run(name, made[1], str(folder), before=traced)
    with open(log) as file:
        lines = [line for line in file if re.search(rf"\b({calls.replace(',', '|')})\(", line)]
    first = next((n for n, line in enumerate(lines) if ".partial" in line), None)
    shutil.rmtree(folder)
    return (first, len(lines)) if first is not None else None


@pytest.mark.slow
def test_a_kill_at_any_call(made, tmp_path):
    if strace() is None:
        pytest.skip("strace is not there, or may not trace: apt-get install strace")
    combinations = [(name, calls) for calls in CALLS for name in COMMANDS]
    each = -(-N_KILLS // len(combinations))
    killed = 0
    for name, calls in combinations:
        if killed >= N_KILLS:
            break
        again = made
        if name == "generate":
            again = (tmp_path / "without", made[1])
            shutil.copytree(made[0], again[0], dirs_exist_ok=True)
            shutil.rmtree(again[0] / "generated")
        if name == "run":
            again = (tmp_path / "without-model", made[1])
            shutil.copytree(made[0], again[0], dirs_exist_ok=True)
            for note in ("dataset", "model", "recommendations"):
                (again[0] / "o" / note / "step.json").unlink(missing_ok=True)
        span = calls_of(name, again, tmp_path, calls)
        if span is None:
            continue
        first, count = span
        step = max(1, (count - first) // each)
        for when in range(first + 1, count + 1, step)[:each]:
            folder = tmp_path / "k"
            shutil.copytree(again[0], folder)
            inject = f"inject={calls}:signal=KILL:when={when}"
            traced = [strace(), "-f", "-o", "/dev/null", "-e", f"trace={calls}", "-e", inject]
            done = run(name, again[1], str(folder), before=traced)
            if done.returncode != 0:
                killed += 1
            check_whole(folder)
            next_run = run(name, again[1], str(folder))
            assert next_run.returncode == 0, (name, calls, when, next_run.stderr)
            check_whole(folder)
            assert left(folder) == [], (name, calls, when)
            shutil.rmtree(folder)
    print(f"{killed} processes were killed")
    assert killed > N_KILLS // 2
