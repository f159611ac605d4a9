"""A kill at any moment leaves the old or the new output at its path, and the next run is clean."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from support.data import generated, write_csv

from dask_als.core import ownership
from dask_als.core.ownership import CHECKPOINT, DATASET, MODEL, RECOMMENDATIONS

N_KILLS = int(os.environ.get("DASK_ALS_KILLS", "24"))
"""How many processes are killed, spread over commands and system calls."""

CALLS = ["rename,renameat2", "fsync", "unlink,rmdir", "mkdir"]

# Without a cluster: its processes are no part of what is written, and take long to start.
# Each in a process that is forked off: what strace counts, it counts from there.
SCRIPT = """
import json, os, sys
from dask_als.data.dataset import open_dataset
from dask_als.core.executor import SerialExecutor
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import RecommendSettings
from dask_als.settings.training import CheckpointSettings, TrainSettings
from dask_als.data import prepare, synthetic as generate
from dask_als.training import train
from dask_als.model import recommend
from dask_als.report import page as report
from dask_als.jobs import job_file, result as job_result, steps as run_job
S = SerialExecutor()
settings = TrainSettings(rank=2, epochs=2)
its = PrepareSettings(test_fraction=0.2, partitions=1)
def write(name, source, folder):
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
        path = f"{folder}/generated"
        try:
            generate.write_ratings(
                generate.GenerateSettings(n_users=9, n_items=9, n_ratings=30), path)
        except ValueError:  # It exists already.
            assert os.path.isdir(path)
source, folders = sys.argv[1], json.loads(sys.argv[2])
codes = {}
for name, folder in folders.items():
    child = os.fork()
    if child == 0:
        try:
            write(name, source, folder)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
os.write(1, json.dumps(codes).encode())
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
    assert set(run(source, dict.fromkeys(COMMANDS, str(folder / "f"))).values()) == {0}
    # So that they are made again.
    shutil.rmtree(folder / "f" / "generated")
    for note in ("dataset/step.json", "model/step.json", "recommendations.step.json"):
        (folder / "f" / "o" / note).unlink()
    return folder / "f", source


def run(source, folders, before=()):
    """Run commands, each in a folder; return their exit codes."""
    command = [*before, sys.executable, "-c", SCRIPT, source, json.dumps(folders)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr
    codes = json.loads(done.stdout)
    assert 1 not in codes.values(), done.stderr
    return codes


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


@pytest.mark.slow
def test_a_kill_at_any_call(made, tmp_path):
    if strace() is None:
        pytest.skip("strace is not there, or may not trace: apt-get install strace")
    whole, source = made
    killed, when = 0, 0
    while killed < N_KILLS:
        when += 1
        before = killed
        for calls in CALLS:
            folders = {name: str(tmp_path / name) for name in COMMANDS}
            for folder in folders.values():
                shutil.copytree(whole, folder)
            inject = f"inject={calls}:signal=KILL:when={when}"
            traced = ["-f", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={calls}"]
            traced = [strace(), *traced, "-e", inject]
            codes = run(source, folders, before=traced)
            killed += sum(code == -9 for code in codes.values())
            for folder in folders.values():
                check_whole(folder)
            assert set(run(source, folders).values()) == {0}
            print(f"{killed} killed", flush=True)
            for name, folder in folders.items():
                check_whole(folder)
                assert left(folder) == [], (name, calls, when)
                shutil.rmtree(folder)
        print(f"{killed} killed at the first {when} calls of each kind", flush=True)
        assert killed > before
