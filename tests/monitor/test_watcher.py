"""Watching real trainings on real clusters: what is told, what is left, and where it cannot be."""

import gc
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster
from support.data import content, generated, small_settings, write_csv
from support.monitored import info

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.core.run_events import Listener
from dask_als.data.prepare import prepare
from dask_als.model import files as model_files
from dask_als.monitor.plugin import _BOARDS
from dask_als.monitor.watcher import watched
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import CheckpointSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture(scope="module", autouse=True)
def pages_that_nobody_looks_at_go_at_once():
    """Bokeh keeps them for 15 seconds, else."""
    options = {
        "allow_websocket_origin": ["*"],
        "unused_session_lifetime_milliseconds": 100,
        "check_unused_sessions_milliseconds": 100,
    }
    with dask.config.set({"distributed.scheduler.dashboard.bokeh-application": options}):
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("watched")
    source = write_csv(directory / "r.csv", generated(60, 50, 1500, seed=6))
    settings = PrepareSettings(test_fraction=0.2, partitions=3)
    return prepare(str(source), str(directory / "d"), SERIAL, settings=settings)


def dashboard(client, page):
    """Return the status and text of a page of the dashboard."""
    port = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.http_server.port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""


def state_of(client):
    """Return what a scheduler holds that a plugin of ours could have left there."""

    def look(dask_scheduler):
        pages = [type(its).__name__ for its in dask_scheduler.http_application.applications]
        return sorted(dask_scheduler.plugins), sorted(dask_scheduler.handlers), pages

    return client.run_on_scheduler(look)


class Noted:
    """A listener that notes down what it is told, and by whom."""

    def __init__(self):
        self.half_epochs, self.progress, self.threads = [], [], set()

    def listener(self):
        return Listener(half_epoch=self._half_epoch, progress=self._progress)

    def _half_epoch(self, half):
        self.threads.add(threading.current_thread())
        self.half_epochs.append(half)

    def _progress(self, progress):
        self.progress.append(progress)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 4},
        {"epochs": 4, "first": "items"},
        {"epochs": 4, "feedback": "implicit"},
        {"method": "gibbs", "burn_in": 2, "samples": 2, "epochs": None},
    ],
    ids=["als", "items first", "implicit", "gibbs"],
)
def test_every_half_epoch_is_told_whatever_the_method(client, dataset, tmp_path, settings):
    noted, during = Noted(), []

    def look(epoch):
        if epoch.figures.epoch == 2:
            time.sleep(1.4)  # the batch with its figures
            during.append(dashboard(client, "metrics")[1])

    start = time.time()
    train(
        dataset,
        str(tmp_path / "m"),
        small_settings(**settings),
        DaskExecutor(client),
        callbacks=[look],
        listener=noted.listener(),
    )
    sides = ["items", "users"] if settings.get("first") == "items" else ["users", "items"]
    told = [(half.epoch, half.side) for half in noted.half_epochs]
    assert told == [(epoch, side) for epoch in (1, 2, 3, 4) for side in sides]
    for half in noted.half_epochs:
        assert [part.number for part in half.partitions] == [0, 1, 2]
        parts = half.solving + half.waiting + half.overhead
        assert parts == pytest.approx(half.seconds)
        assert min(half.solving, half.seconds) > 0
        assert min(half.waiting, half.overhead) >= 0
    total = sum(half.seconds for half in noted.half_epochs)
    assert 0 < total < time.time() - start
    history = model_files.read_history(str(tmp_path / "m"))
    shown = re.search(r'dask_als_rmse\{.*split="train"\} (.*)', during[0])
    assert float(shown[1]) == history[1].train_rmse
    assert 'dask_als_epochs_done{run="' in during[0]


def test_the_page_is_there_while_it_is_trained_and_in_the_menu(client, dataset, tmp_path):
    during = []

    def look(epoch):
        if epoch.figures.epoch == 1:
            during.extend(dashboard(client, page) for page in ("training", "status"))

    executor = DaskExecutor(client)
    train(dataset, str(tmp_path / "m"), small_settings(), executor, callbacks=[look])
    (status, page), (_, menu) = during
    assert status == 200
    assert "Half-epochs" in page
    assert '<a href="training">' in menu
    assert dashboard(client, "training")[0] == 404
    assert '<a href="training">' not in dashboard(client, "status")[1]


@pytest.mark.slow
def test_twenty_trainings_leave_nothing_behind(client, dataset, tmp_path):
    executor = DaskExecutor(client)
    before, threads = state_of(client), set(threading.enumerate())
    of_other_tests = {id(it) for it in _in_memory()}
    noted = Noted()

    def look(epoch):
        assert dashboard(client, "training")[0] == 200

    for number in range(20):
        train(
            dataset,
            str(tmp_path / f"m{number}"),
            small_settings(epochs=1),
            executor,
            callbacks=[look] if number % 5 == 0 else [],
            listener=noted.listener(),
        )
    assert len(noted.half_epochs) == 40
    assert state_of(client) == before
    assert "dask_als_" not in dashboard(client, "metrics")[1]
    left = set(threading.enumerate()) - threads
    assert not [thread for thread in left if thread.name.startswith("dask-als")]
    deadline = time.monotonic() + 20
    while (
        left := {id(it) for it in _in_memory()} - of_other_tests
    ) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def _in_memory():
    gc.collect()
    names = ("_Page", "RunState", "WatchPlugin")
    return [it for it in gc.get_objects() if type(it).__name__ in names]


def test_a_training_that_fails_leaves_nothing_behind(client, dataset, tmp_path):
    before = state_of(client)

    def fail(epoch):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        train(
            dataset, str(tmp_path / "m"), small_settings(), DaskExecutor(client), callbacks=[fail]
        )
    assert state_of(client) == before


def test_a_client_that_goes_takes_its_training_along(client):
    before = state_of(client)
    other = Client(client.scheduler.address, set_as_default=False)
    watching = watched(other, "abcd1234", info(), Listener())
    watching.__enter__()
    assert state_of(client) != before
    other.close()
    deadline = time.monotonic() + 20
    while state_of(client) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state_of(client) == before
    watching.__exit__(None, None, None)


def test_two_trainings_at_once_have_one_page(client):
    before = state_of(client)
    with watched(client, "aaaa0000", info(), Listener()):
        one = state_of(client)[2]
        with watched(client, "bbbb0000", info(), Listener()):
            assert state_of(client)[2] == one
            assert dashboard(client, "metrics")[1].count("dask_als_epochs_planned{") == 2
        assert dashboard(client, "training")[0] == 200
    assert state_of(client) == before


@pytest.mark.slow
def test_a_resumed_training_shows_the_epochs_before(client, dataset, tmp_path):
    checkpoints = CheckpointSettings(directory=str(tmp_path / "c"), every=2)
    executor, shown = DaskExecutor(client), []

    def stop(epoch):
        return epoch.figures.epoch == 3

    def epochs_shown():
        (board,) = [board for board in _BOARDS.values() if board._runs]
        (state,) = board._runs.values()
        return [figures.epoch for figures in state.history]

    def look(epoch):
        deadline = time.monotonic() + 20
        while epoch.figures.epoch not in epochs_shown() and time.monotonic() < deadline:
            time.sleep(0.05)
        shown.append(epochs_shown())

    settings = small_settings(epochs=4)
    train(
        dataset,
        str(tmp_path / "broken off"),
        settings,
        executor,
        checkpoints=checkpoints,
        callbacks=[stop],
    )
    resumed = CheckpointSettings(directory=str(tmp_path / "c"), every=2, resume=True)
    train(dataset, str(tmp_path / "m"), settings, executor, checkpoints=resumed, callbacks=[look])
    assert shown == [[1, 2, 3], [1, 2, 3, 4]]


def test_without_a_dashboard(dataset, tmp_path):
    with (
        LocalCluster(
            processes=False,
            n_workers=1,
            threads_per_worker=1,
            dashboard_address=":0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert dashboard(client, "status")[0] == 404
        noted = Noted()
        listener = noted.listener()
        path = str(tmp_path / "m")
        train(dataset, path, small_settings(), DaskExecutor(client), listener=listener)
        assert len(noted.half_epochs) == 6
    train(dataset, str(tmp_path / "serial"), small_settings(), SERIAL)
    assert content(path) == content(str(tmp_path / "serial"))


WITHOUT_THE_PLUGIN = """
import sys
sys.modules["dask_als.monitor.plugin"] = None
from distributed.cli.dask_scheduler import main
main(["--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_scheduler_without_the_plugin_trains_unwatched(dataset, tmp_path):
    file = tmp_path / "scheduler.json"
    with open(tmp_path / "log", "wb") as log:
        scheduler = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_THE_PLUGIN, "--scheduler-file", str(file)],
            stdout=log,
            stderr=log,
        )
    worker = None
    try:
        _wait_for(file)
        command = [sys.executable, "-m", "distributed.cli.dask_worker"]
        options = ["--scheduler-file", str(file), "--no-nanny", "--no-dashboard", "--nthreads", "1"]
        with open(tmp_path / "worker log", "wb") as log:
            worker = subprocess.Popen([*command, *options], stdout=log, stderr=log, cwd=tmp_path)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            noted = Noted()
            train(
                dataset,
                str(tmp_path / "m"),
                small_settings(),
                DaskExecutor(client),
                listener=noted.listener(),
            )
            plugins = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.plugins))
        assert noted.half_epochs == []
        assert not [name for name in plugins if name.startswith("dask-als")]
    finally:
        for process in (worker, scheduler):
            if process is not None:
                process.kill()  # a worker without a nanny may hang at a mere SIGTERM
                process.wait(30)
    train(dataset, str(tmp_path / "serial"), small_settings(), SERIAL)
    assert content(str(tmp_path / "m")) == content(str(tmp_path / "serial"))


def _wait_for(file: Path):
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_listener_that_fails_does_not_cost_the_model(client, dataset, tmp_path, caplog):
    told = []

    def fail(half):
        told.append(half)
        raise OSError("disk full")

    path, listener = str(tmp_path / "m"), Listener(half_epoch=fail)
    train(dataset, path, small_settings(), DaskExecutor(client), listener=listener)
    assert len(told) == 1
    assert "disk full" in caplog.text
    assert len(model_files.read_history(path)) == 3
