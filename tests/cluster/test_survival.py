"""What is killed on the way does not show in the model. Each test prints how often it killed."""

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from statistics import median

import dask
import psutil
import pytest
from support.data import content, generated, small_settings, write_csv
from support.killed_training import train_on
from support.peers import DeadlyPeers, StoppingPeers

from dask_als.cluster.connect import connected
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.errors import ClusterLostError, JobError, WorkersLostError
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import CheckpointSettings
from dask_als.training.checkpoints import complete_checkpoints
from dask_als.training.train import train

SERIAL = SerialExecutor()
SEED = 0
COMMAND = [sys.executable, "-m", "dask_als"]
DASK = [sys.executable, "-m", "dask"]
SOON = 60.0


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("survival")


@pytest.fixture(scope="module")
def source(directory):
    return str(write_csv(directory / "ratings.csv", generated(300, 400, 9_000)))


@pytest.fixture(scope="module")
def dataset(directory, source):
    settings = PrepareSettings(test_fraction=0.2, partitions=3)
    return prepare(source, str(directory / "dataset"), SERIAL, settings=settings)


@pytest.fixture(scope="module")
def undisturbed(directory, dataset):
    """Return the content of a model that was trained in peace for some epochs."""
    made = {}

    def of(epochs):
        if epochs not in made:
            path = str(directory / f"undisturbed-{epochs}")
            train(dataset, path, small_settings(epochs=epochs), SERIAL)
            made[epochs] = content(path)
        return made[epochs]

    return of


@contextmanager
def local_cluster(*, workers, allowed_failures=3, patience=60.0):
    """Start worker processes of one thread; return an executor and the client."""
    settings = ClusterSettings(workers=workers, threads=1, dashboard="127.0.0.1:0")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures}),
        connected(settings) as client,
    ):
        yield DaskExecutor(client, patience=patience), client


def kill(pids):
    """Kill processes, hard; return how many of them were alive."""
    killed = 0
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        except ProcessLookupError:
            pass
    return killed


def worker_pids(client):
    """Return the process ids of the workers that a local cluster has now."""
    nannies = [worker.process for worker in client.cluster.workers.values()]
    return [process.pid for process in nannies if process is not None and process.pid is not None]


class TestWorkers:
    @pytest.mark.slow
    def test_one_is_killed(self, tmp_path, dataset, undisturbed):
        killed = []

        def kill_once(figures):
            if figures.epoch == 3 and not killed:
                killed.append(kill(worker_pids(client)))

        with local_cluster(workers=1) as (executor, client):
            train(
                dataset,
                str(tmp_path / "m"),
                small_settings(epochs=6),
                executor,
                on_epoch=kill_once,
            )
        assert killed == [1]
        assert content(str(tmp_path / "m")) == undisturbed(6)

    @pytest.mark.slow
    @pytest.mark.parametrize("attributes", ["none", "both"])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_one_is_killed_between_samples(self, tmp_path, dataset, workers, attributes):
        # At this rank, samples are reduced two at a time, the first ones before the kill.
        settings = small_settings(
            method="gibbs",
            rank=64,
            epochs=None,
            burn_in=2,
            samples=4,
            implicit_attributes=attributes,
        )
        train(dataset, str(tmp_path / "undisturbed"), settings, SERIAL)
        killed = []

        def kill_once(figures):
            if figures.epoch == 4 and not killed:
                killed.append(kill(worker_pids(client)[:1]))

        with local_cluster(workers=workers) as (executor, client):
            train(dataset, str(tmp_path / "m"), settings, executor, on_epoch=kill_once)
        assert killed == [1]
        assert content(str(tmp_path / "m")) == content(str(tmp_path / "undisturbed"))

    @pytest.mark.slow
    @pytest.mark.parametrize("allowed_failures", [3, 0])
    def test_one_or_all_are_killed_at_random(
        self, tmp_path, dataset, undisturbed, allowed_failures
    ):
        """Without an allowed failure, each death under a task is told to us."""
        epochs, kills = 60, 10
        chance = random.Random(SEED)
        killed = []

        def kill_some(client):
            pids = worker_pids(client)
            killed.append(kill(chance.sample(pids, min(len(pids), chance.choice([1, 1, 2])))))

        def maybe(figures):
            if len(timers) < kills and chance.random() < 0.4:
                timers.append(threading.Timer(chance.uniform(0, 0.2), kill_some, [client]))
                timers[-1].start()

        timers = []
        with local_cluster(workers=2, allowed_failures=allowed_failures) as (executor, client):
            train(
                dataset,
                str(tmp_path / "m"),
                small_settings(epochs=epochs),
                executor,
                checkpoints=CheckpointSettings(directory=str(tmp_path / "c"), every=2),
                on_epoch=maybe,
            )
            for timer in timers:
                timer.join()
        print(f"{sum(killed)} kills of workers, {killed.count(2)} times of both")
        assert len(killed) == kills
        assert content(str(tmp_path / "m")) == undisturbed(epochs)

    @pytest.mark.slow
    def test_some_are_killed_while_they_exchange_rows(self, tmp_path, dataset, undisturbed):
        epochs, kills = 20, 5
        (tmp_path / "kills").mkdir()
        with local_cluster(workers=3) as (executor, _):
            executor.peers = DeadlyPeers(str(tmp_path / "kills"), kills, chance=0.1)
            train(
                dataset,
                str(tmp_path / "m"),
                small_settings(epochs=epochs),
                executor,
                checkpoints=CheckpointSettings(directory=str(tmp_path / "c"), every=2),
            )
        print(f"{len(names_in(tmp_path / 'kills'))} kills of workers while they exchanged rows")
        assert content(str(tmp_path / "m")) == undisturbed(epochs)
        assert names_in(tmp_path / "kills")

    @pytest.mark.slow
    def test_one_is_stopped_while_it_exchanges_rows(self, tmp_path, dataset, undisturbed):
        (tmp_path / "stops").mkdir()
        with local_cluster(workers=3) as (executor, _):
            executor.peers = StoppingPeers(str(tmp_path / "stops"), seconds=12.0)
            train(dataset, str(tmp_path / "m"), small_settings(epochs=6), executor)
        assert content(str(tmp_path / "m")) == undisturbed(6)
        assert names_in(tmp_path / "stops")

    @pytest.mark.slow
    def test_those_who_join_take_part(self, tmp_path, dataset, undisturbed):
        solved_by = []

        def watch(figures):
            if figures.epoch == 3:
                client.cluster.scale(2)
                client.wait_for_workers(2, timeout=SOON)
            held = client.has_what()
            solved_by.append({name for name, keys in held.items() if holds_blocks(keys)})

        with local_cluster(workers=1) as (executor, client):
            train(
                dataset,
                str(tmp_path / "m"),
                small_settings(epochs=12),
                executor,
                checkpoints=CheckpointSettings(directory=str(tmp_path / "c"), every=2),
                on_epoch=watch,
            )
        assert [len(names) for names in solved_by[:3]] == [1, 1, 1]
        assert len(solved_by[-1]) == 2
        assert content(str(tmp_path / "m")) == undisturbed(12)

    @pytest.mark.slow
    def test_under_prepare(self, tmp_path, source, dataset):
        killed = []

        def kill_at(stage, done, total):
            if done == 0 and stage in ("shuffle", "by item"):
                killed.append(kill(worker_pids(client)))

        settings = PrepareSettings(test_fraction=0.2, partitions=3)
        with local_cluster(workers=2) as (executor, client):
            made = prepare(
                source, str(tmp_path / "d"), executor, settings=settings, progress=kill_at
            )
        assert killed == [2, 2]
        assert made.fingerprint == dataset.fingerprint

    @pytest.mark.slow
    def test_under_each_attempt(self, tmp_path, dataset):
        """Tasks that kill their worker are given up in the end."""

        def kill_always(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        with local_cluster(workers=1, allowed_failures=0) as (executor, _):
            handle = executor.submit(kill_always, key="deadly-0")
            with pytest.raises(WorkersLostError, match="under deadly-0"):
                executor.gather([handle])


def holds_blocks(keys):
    return any(key.startswith(("read-", "renumber-")) for key in keys)


@pytest.mark.slow
def test_long_runs_are_flat(tmp_path):
    """After 1,000 epochs as after 50: the scheduler's tasks, memory of this process and worker."""
    source = write_csv(tmp_path / "r.csv", generated(20, 30, 300))
    tiny = prepare(str(source), str(tmp_path / "d"), SERIAL)
    tasks, resident = [], {}

    def watch(figures):
        tasks.append(len(client.cluster.scheduler.tasks))
        if figures.epoch in (100, 550, 1_000):
            pids = [os.getpid(), *worker_pids(client)]
            resident[figures.epoch] = [psutil.Process(pid).memory_info().rss for pid in pids]

    with local_cluster(workers=1) as (executor, client):
        train(tiny, str(tmp_path / "m"), small_settings(epochs=1_000), executor, on_epoch=watch)
    peaks = [max(tasks[i : i + 50]) for i in range(0, 1_000, 50)]
    print("tasks", peaks)
    print("MiB", {n: [rss >> 20 for rss in both] for n, both in resident.items()})
    # A segment of 50 epochs, whose lineage is truncated: two tasks of each stay, and of epochs so
    # short, which are all submitted at once if they are fast enough, a third; and some more.
    assert max(peaks) <= 50 * 3 + 20
    # A peak depends on how many are submitted, and how far they are, when figures come.
    assert median(peaks[10:]) <= max(peaks[:10])
    for before, after in zip(resident[100], resident[1_000], strict=True):
        assert after - before < 16 << 20


@pytest.mark.slow
def test_fifty_kills_while_checkpoints_are_written(tmp_path, dataset, undisturbed):
    """Whatever is half-written, --resume continues, and never goes back."""
    # Processes are forked from one that has imported everything: most of their time is training.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "dask_als.training.train",
            "dask_als.kernels.least_squares",
            "dask_als.cluster.dask_executor",
        ]
    )
    chance = random.Random(SEED)
    model, checkpoints = str(tmp_path / "m"), str(tmp_path / "c")
    newest, half_written, kills = "", set(), 0
    while kills < 50:
        process = context.Process(target=train_on, args=(dataset, model, checkpoints, 100_000))
        process.start()
        if chance.random() < 0.9:
            wait_for(partial(is_newer_than, newest, checkpoints), process)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        kills += 1
        half_written |= {name for name in names_in(checkpoints) if name.endswith(".partial")}
        found = complete_checkpoints(checkpoints)
        if found:
            assert found[-1] >= newest
            newest = found[-1]
            assert len(ALSModel.load(newest).history) == int(newest[-5:])
    epochs = int(newest[-5:]) + 2
    train_on(dataset, model, checkpoints, epochs)
    print(f"{kills} kills, {len(half_written)} things left half-written, {epochs} epochs")
    assert len(half_written) > kills // 5
    assert content(model) == undisturbed(epochs)
    assert names_in(tmp_path) == ["c", "m"]
    assert all(re.fullmatch(r"epoch-\d+|\.in-use", name) for name in names_in(checkpoints))


def is_newer_than(newest, checkpoints):
    return any(path > newest for path in complete_checkpoints(checkpoints))


def names_in(path):
    return sorted(os.listdir(path)) if os.path.exists(path) else []


def wait_for(condition, process):
    """Wait until something is so while a process runs."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Processes:
    """A scheduler, workers and drivers, each a process of its own that writes to files."""

    def __init__(self, directory):
        self.directory = directory
        self.running = []
        self.kills = 0

    def start(self, command):
        number = len(self.running)
        out, err = (self.directory / f"{number}.{name}" for name in ("out", "err"))
        with open(out, "w") as stdout, open(err, "w") as stderr:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdout=stdout,
                stderr=stderr,
                cwd=self.directory,
                start_new_session=True,
            )
        process.out, process.err = out, err
        process.is_alive = lambda: process.poll() is None
        self.running.append(process)
        return process

    def scheduler(self):
        process = self.start(
            [*DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        )
        pattern = r"Scheduler at: +(tcp://\S+)"
        wait_for(lambda: re.search(pattern, process.err.read_text()), process)
        self.address = re.search(pattern, process.err.read_text())[1]
        return process

    def worker(self):
        return self.start(
            [*DASK, "worker", self.address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
        )

    def driver(self, *arguments):
        return self.start([*COMMAND, *arguments, "--cluster", self.address])

    def kill(self, *processes):
        self.kills += kill([process.pid for process in processes])
        for process in processes:
            process.wait(timeout=SOON)

    def close(self):
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=SOON)


@pytest.fixture
def processes(tmp_path):
    (tmp_path / "logs").mkdir()
    processes = Processes(tmp_path / "logs")
    yield processes
    processes.close()


def let_train(driver, epochs=10):
    """Wait until a driver has said some more epochs."""
    before = epochs_said(driver)
    wait_for(lambda: epochs_said(driver) >= before + epochs, driver)


def epochs_said(driver):
    return len(re.findall("^epoch ", driver.out.read_text(), re.MULTILINE))


def train_command(dataset, tmp_path, epochs):
    return [
        *("train", dataset.path, tmp_path / "m", "--rank", 4, "--epochs", epochs),
        *("--bias-regularization", 1, "--factor-regularization", 2),
        *("--checkpoint", tmp_path / "c", "--checkpoint-every", 3, "--resume"),
    ]


def how_to_go_on(tmp_path):
    newest = complete_checkpoints(str(tmp_path / "c"))[-1]
    return f"the last checkpoint is {newest}; the same command with --resume continues from it\n"


@pytest.mark.slow
def test_workers_then_the_driver_then_the_scheduler(tmp_path, processes, dataset, undisturbed):
    epochs = 400
    command = train_command(dataset, tmp_path, epochs)
    chance = random.Random(SEED)

    def kill_at_random(*killed):
        let_train(driver)
        time.sleep(chance.uniform(0, 0.3))
        processes.kill(*killed)

    scheduler = processes.scheduler()
    workers = [processes.worker() for _ in range(2)]
    driver = processes.driver(*command)
    for number in (0, 1, 0):
        kill_at_random(workers[number])
        workers[number] = processes.worker()
    kill_at_random(*workers)
    workers = [processes.worker() for _ in range(2)]
    for _ in range(3):
        kill_at_random(driver)
        driver = processes.driver(*command)
    kill_at_random(scheduler)
    assert driver.wait(timeout=SOON) == 3
    *left, last = driver.err.read_text().splitlines(keepends=True)
    assert all(line.endswith(", which a killed run had left\n") for line in left)
    assert last == (
        f"dask-als: the scheduler at {processes.address} is gone; {how_to_go_on(tmp_path)}"
    )
    assert names_in(tmp_path) == ["c", "logs"]
    newest = int(complete_checkpoints(str(tmp_path / "c"))[-1][-5:])

    processes.scheduler()
    processes.worker()
    driver = processes.driver(*command)
    assert driver.wait(timeout=SOON) == 0, driver.err.read_text()
    assert int(re.search(r"^epoch +(\d+)/", driver.out.read_text(), re.M)[1]) == newest + 1
    print(f"{processes.kills} kills of workers, drivers and a scheduler")
    assert processes.kills == 9
    assert content(str(tmp_path / "m")) == undisturbed(epochs)
    assert names_in(tmp_path) == ["c", "logs", "m"]


@pytest.mark.slow
def test_no_worker_comes_back(tmp_path, processes, dataset):
    processes.scheduler()
    worker = processes.worker()
    command = train_command(dataset, tmp_path, 10_000)
    driver = processes.driver(*command, "--worker-timeout", 2)
    let_train(driver)
    processes.kill(worker)
    start = time.monotonic()
    assert driver.wait(timeout=SOON) == 3
    assert time.monotonic() - start < 15
    assert driver.err.read_text() == (
        f"dask-als: no worker came back within 2 seconds; {how_to_go_on(tmp_path)}"
    )


class Joining(SerialExecutor):
    """Is joined by another worker at the third epoch; notes what is read."""

    def __init__(self):
        self.epochs = 0
        self.reads = []

    @property
    def workers(self):
        return {"one", "two"} if self.epochs > 2 else {"one"}

    def submit(self, function, *args, key, worker=None):
        if key.startswith("read-"):
            self.reads.append((self.epochs, key))
        return super().submit(function, *args, key=key, worker=worker)


def test_blocks_are_shared_out_to_those_who_joined(tmp_path, dataset, undisturbed):
    def count(figures):
        executor.epochs = figures.epoch

    executor = Joining()
    train(
        dataset,
        str(tmp_path / "m"),
        small_settings(epochs=8),
        executor,
        checkpoints=CheckpointSettings(directory=str(tmp_path / "c"), every=2),
        on_epoch=count,
    )
    assert [epochs for epochs, key in executor.reads if key == "read-users-0"] == [0, 4]
    assert len(executor.reads) == 2 * (3 + 3 + 3)
    assert content(str(tmp_path / "m")) == undisturbed(8)


class Losing(SerialExecutor):
    """Loses workers, or the cluster, whenever an epoch's figures are asked for."""

    def __init__(self, error, after):
        self.error = error
        self.left = after

    def gather(self, handles):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().gather(handles)


@pytest.mark.parametrize(
    ("error", "how_often"),
    [(ClusterLostError("gone"), "gone"), (WorkersLostError("died"), "died, 10 times in a row")],
)
def test_what_is_said_in_the_end(tmp_path, dataset, error, how_often):
    def end(after, checkpoints=None):
        with pytest.raises(JobError) as raised:
            train(
                dataset,
                str(tmp_path / "m"),
                small_settings(epochs=9),
                Losing(error, after),
                checkpoints=checkpoints,
            )
        assert type(raised.value) is type(error)
        return str(raised.value)

    checkpoints = CheckpointSettings(directory=str(tmp_path / "c"), every=2)
    assert end(0) == (
        f"{how_often}; no checkpoint was kept; with --checkpoint DIR, --resume can continue the run"
    )
    assert end(1, checkpoints) == (
        f"{how_often}; there is no checkpoint in {tmp_path}/c yet, so start again"
    )
    assert end(6, checkpoints) == (
        f"{how_often}; the last checkpoint is {tmp_path}/c/epoch-00002; "
        "the same command with --resume continues from it"
    )
