"""Signals end a run at once, whatever it is at, and nothing of it is left: real processes."""

import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress

import psutil
import pytest
from support.data import generated, small_settings, write_csv
from support.parents import signal_after_setup

from dask_als.cluster import lifecycle
from dask_als.cluster.connect import connected
from dask_als.cluster.settings import ClusterSettings
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
DASK_ALS = [sys.executable, "-m", "dask_als"]
LOCAL = ["--dashboard", "127.0.0.1:0"]
TWO = ["--workers", 2, *LOCAL]
FIT = """
import sys
from dask_als import ALS
if __name__ == "__main__":
    ALS(rank=4, epochs=100000).fit(
        sys.argv[1], on_epoch=lambda figures: print("epoch", figures.epoch, flush=True)
    )
"""
JOB = """
name = "job"
steps = ["prepare", "train"]
[source]
path = "{source}"
[train]
epochs = 100000
[cluster.local]
workers = 2
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a directory with a source, a dataset of it, a model, a job and a program."""
    directory = tmp_path_factory.mktemp("ends")
    source = write_csv(directory / "ratings.csv", generated(20_000, 1_000, 60_000))
    settings = PrepareSettings(partitions=8)
    dataset = prepare(str(source), str(directory / "dataset"), SERIAL, settings=settings)
    train(dataset, str(directory / "model"), small_settings(epochs=1), SERIAL)
    (directory / "fit.py").write_text(FIT)
    (directory / "job.toml").write_text(JOB.format(source=source))
    return directory


def command_for(kind, made, out):
    return {
        "train": [*DASK_ALS, "train", made / "dataset", out / "m", "--epochs", 100_000, *TWO],
        "recommend": [
            *DASK_ALS,
            "recommend",
            made / "model",
            made / "dataset",
            "--out",
            out / "r",
            "-k",
            100,  # so that writing takes a while
            *TWO,
        ],
        "run": [*DASK_ALS, "run", made / "job.toml", "--set", f"output={out}", *LOCAL],
        "fit": [sys.executable, made / "fit.py", made / "dataset"],
    }[kind]


@contextmanager
def started(command, temporary, out):
    """Start a command in a session, and a directory for temporary files, of its own."""
    process = subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=out,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for one in members(process.pid):
            one.kill()
        process.communicate()


def members(session):
    """Return the living processes of a session."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers_of(process):
    """Return the worker processes, that is all children but Python's resource tracker."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def wait_until(process, condition):
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for_moment(moment, process, temporary, out):
    if moment == "start of workers":
        wait_until(process, lambda: workers_of(process))
    elif moment == "start of the cluster":
        wait_until(process, lambda: os.listdir(temporary))
    elif moment == "writing":
        wait_until(process, lambda: list(out.glob(".r.*/r/part*")))
    else:
        while not process.stdout.readline().startswith("epoch"):
            assert process.poll() is None, process.stderr.read()
    if moment == "hung":
        for worker in workers_of(process):
            worker.suspend()


def send(how, process):
    number = signal.SIGTERM if "SIGTERM" in how else getattr(signal, how.split()[0])
    if "group" in how:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    if "twice" in how:
        time.sleep(0.03)
        with suppress(ProcessLookupError):
            process.send_signal(number)


def bound(how):
    """Return within how many seconds things end: two where a case runs alone; see `marks_of`."""
    is_alone = how == "SIGINT" and os.getloadavg()[0] < os.cpu_count()
    return 2.0 if is_alone else 10.0


EXPECTED = {
    "SIGINT": (130, "interrupted"),
    "SIGTERM": (143, "terminated"),
    "SIGHUP": (129, "terminated"),
}
HOW = ["SIGINT", "SIGINT twice", "SIGINT group", "SIGTERM", "SIGTERM group", "SIGHUP"]
WHEN = [
    ("train", "start of the cluster"),
    ("train", "start of workers"),
    ("train", "training"),
    ("train", "hung"),
    ("recommend", "start of workers"),
    ("recommend", "writing"),
    ("run", "training"),
    ("fit", "training"),
]
FAST = {("recommend", "writing", "SIGINT group")}


def marks_of(case):
    """Mark a case; one of each moment runs alone, where the shorter bound of time holds."""
    if case in FAST:
        return []
    return [pytest.mark.slow, *([pytest.mark.alone] if case[2] == "SIGINT" else [])]


@pytest.mark.parametrize(
    ("kind", "moment", "how"),
    [
        pytest.param(*case, marks=marks_of(case))
        for case in ((*when, how) for when in WHEN for how in HOW)
    ],
)
def test_a_signal_ends_all(tmp_path, made, kind, moment, how):
    temporary, out = tmp_path / "tmp", tmp_path / "out"
    temporary.mkdir()
    out.mkdir()
    with started(command_for(kind, made, out), temporary, out) as process:
        wait_for_moment(moment, process, temporary, out)
        start = time.monotonic()
        send(how, process)
        _, err = process.communicate(timeout=30)
        while members(process.pid):
            assert time.monotonic() - start < bound(how)
            time.sleep(0.01)
        seconds = time.monotonic() - start
    print(f"{kind}, {moment}, {how}: {seconds:.2f} s")
    code, word = EXPECTED[how.split()[0]]
    if kind == "fit":
        assert process.returncode == -getattr(signal, how.split()[0])
        # At a second Ctrl-C, Python itself may say more while it ends.
        last = err.splitlines() if "twice" in how else err.strip().splitlines()[-1:]
        assert ("KeyboardInterrupt" in last) == (code == 130)
    else:
        assert process.returncode == code
        assert err.strip() == f"dask-als: {word}; nothing was left half-written"
    assert os.listdir(temporary) == []
    assert not [path for path in out.rglob("*") if "partial" in path.name]
    assert seconds < bound(how)
    if kind == "run":
        result = json.loads((out / "result.json").read_text())
        assert (result["status"], result["exit_code"], result["error"]) == ("failed", code, word)
        assert result["steps"][-1]["reason"] == word


@contextmanager
def silent_address():
    """Give an address that accepts connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("protocol", ["tcp", pytest.param("tls", marks=pytest.mark.slow)])
def test_an_address_that_never_answers(tmp_path, made, protocol):
    out = tmp_path / "m"
    with silent_address() as address:
        start = time.monotonic()
        ended = subprocess.run(
            [
                *DASK_ALS,
                "train",
                str(made / "dataset"),
                str(out),
                "--timeout",
                "0.5s",
                "--cluster",
                f"{protocol}://{address}",
                *certificates(tmp_path, protocol),
            ],
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 1
    assert f"there is no scheduler at {protocol}://{address}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert time.monotonic() - start < 30
    assert not out.exists()


def certificates(directory, protocol):
    if protocol == "tcp":
        return []
    from distributed import Security

    made = Security.temporary()
    options = []
    contents = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, content in contents.items():
        (directory / f"{name}.pem").write_text(content)
        options += [f"--tls-{name}", str(directory / f"{name}.pem")]
    return options


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training", "hung"], ids=["running", "stopped"])
def test_no_worker_outlives_a_run_that_is_killed(tmp_path, made, moment):
    with started(command_for("train", made, tmp_path), tmp_path, tmp_path) as process:
        wait_for_moment(moment, process, tmp_path, tmp_path)
        assert len(workers_of(process)) == 2
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while members(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    # What it left is removed by the next one.
    assert list(tmp_path.glob("dask-als-workers-*"))
    lifecycle._remove_abandoned(tmp_path)
    assert not list(tmp_path.glob("dask-als-workers-*"))


def test_a_process_of_the_user_is_not_ended_with_its_parent():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(signal_after_setup).result() == 0


def test_directories_of_others_stay(tmp_path):
    unlocked, strange, unmarked, linked, target = (
        tmp_path / f"{lifecycle._PREFIX}{name}" for name in "abcde"
    )
    for directory in (unlocked, strange, unmarked, linked):
        directory.mkdir()
    (unlocked / ".lock").write_text(lifecycle._MARK)
    (unmarked / ".lock").touch()
    (linked / ".lock").symlink_to(unlocked / ".lock")
    (strange / "something").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".lock").touch()
    target.symlink_to(tmp_path / "elsewhere")
    lifecycle._remove_abandoned(tmp_path)
    assert not unlocked.exists()
    assert (strange / "something").exists()
    assert (unmarked / ".lock").exists()
    assert (linked / ".lock").is_symlink()
    assert (tmp_path / "elsewhere" / ".lock").exists()


SHORT = {
    "version": (["--version"], "dask-als "),
    "no dataset": (["train", "nowhere", "m"], "nowhere"),
    "no source": (["prepare", "nowhere.csv", "d"], "nowhere.csv"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_short_commands_that_are_interrupted(tmp_path, name):
    """From our first line on: before it, and after our last one, Python itself ends as it does."""
    arguments, said = SHORT[name]
    program = "import signal; from dask_als.__main__ import main; print(flush=True); main()"
    for run in range(70):
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdout.readline()
        time.sleep(0.02 + 0.005 * run)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        had_ended = said in out + err
        assert process.returncode in {130, 0, 2} or (
            had_ended and process.returncode == -signal.SIGINT
        ), err


def test_an_interrupt_leaves_the_levels_of_loggers():
    logger = logging.getLogger("distributed.some")
    logger.setLevel(logging.ERROR)
    with pytest.raises(KeyboardInterrupt), connected(ClusterSettings(dashboard="127.0.0.1:0")):
        raise KeyboardInterrupt
    assert logger.level == logging.ERROR
