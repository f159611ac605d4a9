"""A kill at any moment leaves the old or the new output at its path, and the next run is clean."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.data import generated, write_csv
from support.killed_commands import COMMANDS

from dask_als.core import ownership
from dask_als.core.ownership import CHECKPOINT, DATASET, FOLDED_MODEL, MODEL, RECOMMENDATIONS
from dask_als.jobs.job_file import read_job

N_KILLS = int(os.environ.get("DASK_ALS_KILLS", "24"))
"""How many processes are killed, spread over commands and system calls."""

TESTS = Path(__file__).parents[1]
CALLS = ["rename,renameat2", "fsync", "unlink,rmdir", "mkdir", "write,pwrite64"]


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


def run(source, folders, *, before=(), kill_after=()):
    """Run commands, each in a folder; return their exit codes."""
    words = map(json.dumps, (source, folders, dict(kill_after)))
    command = [*before, sys.executable, "-m", "support.killed_commands", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [TESTS, TESTS.parent]))}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.stdout, done.stderr
    codes = json.loads(done.stdout)
    assert 1 not in codes.values(), done.stderr
    return codes


def check_whole(folder):
    """Check that each output at its path is complete, and of its kind."""
    for path, kind in {
        "dataset": DATASET,
        "model": MODEL,
        "folded": FOLDED_MODEL,
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
    read_job(os.path.join(folder, "tuned.toml"))


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
    killed, when = 0, 0
    while killed < N_KILLS:
        when += 1
        before = killed
        for calls in CALLS:
            inject = f"inject={calls}:signal=KILL:when={when}"
            # With --seccomp-bpf, strace 6.1 injects nothing at a second call or later.
            traced = ["-f", "-o", "/dev/null", "-e", f"trace={calls}"]
            traced = [strace(), *traced, "-e", inject]
            killed += kill_and_run_again(made, tmp_path, before=traced)
        print(f"{killed} killed at the first {when} calls of each kind", flush=True)
        assert killed > before


@pytest.mark.slow
def test_a_kill_at_any_moment(made, tmp_path):
    whole, source = made
    shutil.copytree(whole, tmp_path / "timed")
    seconds = {}
    for name in COMMANDS:
        started = time.monotonic()
        run(source, {name: str(tmp_path / "timed")})
        seconds[name] = time.monotonic() - started
    shutil.rmtree(tmp_path / "timed")
    chance = random.Random(0)
    # Of these, a part is the start of Python and the imports, which come before the fork.
    least = min(seconds.values())
    killed = 0
    while killed < N_KILLS:
        moments = {name: chance.uniform(0, took - 0.8 * least) for name, took in seconds.items()}
        killed += kill_and_run_again(made, tmp_path, kill_after=moments)
        print(f"{killed} killed", flush=True)


def kill_and_run_again(made, tmp_path, **how):
    """Kill each command as told, and run it again, checking its outputs; return how many died."""
    whole, source = made
    folders = {name: str(tmp_path / name) for name in COMMANDS}
    for folder in folders.values():
        shutil.copytree(whole, folder)
    codes = run(source, folders, **how)
    for folder in folders.values():
        check_whole(folder)
    assert set(run(source, folders).values()) == {0}
    for name, folder in folders.items():
        check_whole(folder)
        assert left(folder) == [], (name, how)
        shutil.rmtree(folder)
    return sum(code == -9 for code in codes.values())
