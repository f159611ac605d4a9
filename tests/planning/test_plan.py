import gc
import json
import multiprocessing
import os
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from support.data import generated, small_settings, write_csv

from dask_als.cli.main import main
from dask_als.cluster.connect import WORKER_ENVIRONMENT
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.core.blocks import PREDICTIONS_AT_ONCE
from dask_als.core.executor import SerialExecutor, Shape
from dask_als.data.dataset import Dataset, Partition, SideTable
from dask_als.data.prepare import prepare
from dask_als.data.synthetic import GenerateSettings, write_ratings
from dask_als.errors import InputError
from dask_als.model.manifest import read_manifest
from dask_als.planning.calibration import Speed, measured_speed, row_flops
from dask_als.planning.duration import best_partitions, epoch_seconds, tasks_per_epoch
from dask_als.planning.memory import (
    PROCESS_BYTES,
    THREAD_BYTES,
    USABLE,
    check_fits,
    memory_of_a_worker,
)
from dask_als.planning.plan import plan
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import CheckpointSettings, StopSettings, TrainSettings
from dask_als.training.start import random_start
from dask_als.training.task_graph import TaskGraph
from dask_als.training.train import train

MIB = 1 << 20
ONE = Shape(workers=1, threads=1, memory=None)
SPEED = Speed(flops={"users": 50e9, "items": 50e9}, test_ratings=1e7)
CLOSE = 0.25


def dataset_of(n_users, n_items, n_ratings, partitions=1, n_test=0):
    """Return a dataset that is only a manifest, in equal partitions."""

    def table(n_rows, n_columns, n_test):
        edges = np.linspace(0, n_rows, partitions + 1).astype(int).tolist()
        parts = [
            Partition(start, stop, n_ratings // partitions, n_test // partitions, n_columns)
            for start, stop in pairwise(edges)
        ]
        return SideTable("", 0, tuple(parts))

    users, items = table(n_users, n_items, n_test), table(n_items, n_users, 0)
    return Dataset("", users, items, n_ratings, n_test, 3.0, 1.0, 5.0, "", None, {}, False)


BIG = dataset_of(2_000_000, 500_000, 200_000_000, partitions=200, n_test=20_000_000)


# --- memory ---


def test_memory_of_an_epoch_by_hand():
    dataset = dataset_of(1_000_000, 1_000_000, 10_000, partitions=10)
    memory = memory_of_a_worker(dataset, TrainSettings(rank=99), ONE)
    side = 1_000_000 * 100 * 4
    assert memory.phase == "epochs"
    # Both sides before, the users after, the items' parts, and the items joined.
    assert memory.states == 5 * side
    assert memory.process == PROCESS_BYTES + THREAD_BYTES
    assert memory.blocks == 2 * 10_000 * 12 + 2_000_000 * 8
    assert memory.temporaries < 3 * MIB
    assert memory.peak == sum((memory.process, memory.blocks, memory.states, memory.temporaries))


def test_a_side_of_one_partition_is_not_copied_to_be_joined():
    settings = TrainSettings(rank=99)
    states = [
        memory_of_a_worker(dataset_of(10**6, 10**5, 10**4, parts), settings, ONE).states
        for parts in (1, 100)
    ]
    assert states[0] < states[1]


def test_a_large_test_block_weighs_while_it_is_predicted():
    dataset = dataset_of(100, 100, 1_000_000, n_test=1_000_000)
    memory = memory_of_a_worker(dataset, TrainSettings(rank=64), ONE)
    assert memory.phase == "epochs"
    assert memory.temporaries == PREDICTIONS_AT_ONCE * 2 * 64 * 4 + 1_000_000 * 40


def test_samples_weigh_where_their_average_is_written():
    dataset = dataset_of(40_000, 10_000, 500_000, 4)
    shape = Shape(workers=1, threads=2, memory=None)
    few, many = (
        memory_of_a_worker(
            dataset,
            TrainSettings(method="gibbs", rank=32, samples=samples, keep_samples=True),
            shape,
        )
        for samples in (10, 50)
    )
    assert few.phase == many.phase == "writing"
    # Two threads, each with a quarter of the larger side, 33 numbers of 4 bytes a row and sample.
    a_sample = 2 * 10_000 * 33 * 4
    assert many.temporaries - few.temporaries >= 40 * 3 * a_sample


def test_the_number_of_reduced_samples_does_not_set_the_memory():
    dataset = dataset_of(400_000, 100_000, 5_000_000, 4)
    shape = Shape(workers=1, threads=2, memory=None)
    als = memory_of_a_worker(dataset, TrainSettings(rank=32), shape)
    few, many = (
        memory_of_a_worker(dataset, TrainSettings(method="gibbs", rank=32, samples=samples), shape)
        for samples in (40, 400)
    )
    assert few == many
    # Two threads, each with the stack of a quarter of the larger side: rank 128, and 4 samples.
    assert few.peak - als.peak >= 2 * 100_000 * (128 + 4 * 32) * 4
    kept = TrainSettings(method="gibbs", rank=32, samples=40, keep_samples=True)
    assert few.peak < memory_of_a_worker(dataset, kept, shape).peak


def test_blocks_are_shared_out_by_whole_partitions():
    dataset = dataset_of(1000, 1000, 300_000_000, partitions=3)
    blocks = [
        memory_of_a_worker(dataset, TrainSettings(), replace(ONE, workers=workers)).blocks
        for workers in (1, 2, 3, 4)
    ]
    assert blocks[1] == pytest.approx(blocks[0] * 2 / 3, rel=1e-6)
    assert blocks[2] == blocks[3] == pytest.approx(blocks[0] / 3, rel=1e-6)


@given(
    rank=st.integers(1, 256),
    partitions=st.integers(1, 40),
    workers=st.integers(1, 9),
    threads=st.integers(1, 8),
)
def test_more_work_never_needs_less_and_more_workers_never_more(rank, partitions, workers, threads):
    dataset = dataset_of(5000, 700, 1_000_000, partitions, n_test=100_000)
    settings, shape = TrainSettings(rank=rank), Shape(workers, threads, None)

    def peak(settings=settings, shape=shape):
        return memory_of_a_worker(dataset, settings, shape).peak

    assert peak() > PROCESS_BYTES
    # The kernel's own memory, a few MiB, falls where large systems are no longer side by side.
    assert peak(replace(settings, rank=rank + 1)) > peak() - threads * 8 * MIB
    assert peak(replace(settings, dtype="float64")) >= peak()
    assert peak(shape=replace(shape, threads=threads + 1)) >= peak()
    assert peak(shape=replace(shape, workers=workers + 1)) <= peak()


# --- what does not fit ---


def test_no_limit_refuses_nothing():
    check_fits(BIG, TrainSettings(rank=1000), ONE)


def test_what_is_enough_is_enough():
    peak = memory_of_a_worker(BIG, TrainSettings(), ONE).peak
    check_fits(BIG, TrainSettings(), replace(ONE, memory=int(peak / USABLE) + 1))
    with pytest.raises(InputError):
        check_fits(BIG, TrainSettings(), replace(ONE, memory=int(peak / USABLE) - 1))


def test_a_refusal_gives_the_figures_and_each_of_its_ways_out_works():
    settings = TrainSettings(rank=64, dtype="float64")
    shape = Shape(workers=2, threads=2, memory=4096 * MIB)
    with pytest.raises(InputError) as refusal:
        check_fits(BIG, settings, shape)
    message = str(refusal.value)
    assert "\n" not in message
    for word in ("process 292 MiB", "blocks", "states", "temporaries", "limit of 4.0 GiB"):
        assert word in message
    memory = int(re.search(r"--memory (\d+)MiB", message)[1]) * MIB
    check_fits(BIG, settings, replace(shape, memory=memory))
    rank = int(re.search(r"--rank \((\d+)\)", message)[1])
    check_fits(BIG, replace(settings, rank=rank), shape)


def test_only_what_helps_is_advised():
    blocks_only = dataset_of(1000, 1000, 300_000_000, partitions=100)
    with pytest.raises(InputError, match=r"more workers \(--workers \d+\)") as refusal:
        check_fits(blocks_only, TrainSettings(), replace(ONE, memory=2048 * MIB))
    assert "rank" not in str(refusal.value).split("give")[1]
    workers = int(re.search(r"--workers (\d+)", str(refusal.value))[1])
    check_fits(blocks_only, TrainSettings(), Shape(workers, 1, 2048 * MIB))
    with pytest.raises(InputError):
        check_fits(blocks_only, TrainSettings(), Shape(workers - 1, 1, 2048 * MIB))

    states_only = dataset_of(10_000_000, 1000, 1000)
    with pytest.raises(InputError) as refusal:
        check_fits(states_only, TrainSettings(rank=64), replace(ONE, memory=1024 * MIB))
    assert "--workers" not in str(refusal.value)


# --- tasks and time ---


class CountingExecutor(SerialExecutor):
    def __init__(self, workers=1):
        self.keys = []
        self.workers = frozenset(f"worker-{n}" for n in range(workers))

    def submit(self, function, *args, key, worker=None):
        self.keys.append(key)
        return super().submit(function, *args, key=key, worker=worker)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "ratings.csv"
    return str(write_csv(path, generated(40, 60, 900)))


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("test_fraction", [0, 0.2])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_tasks_are_those_that_training_submits(
    tmp_path, source, partitions, test_fraction, workers
):
    settings = PrepareSettings(partitions=partitions, test_fraction=test_fraction)
    dataset = prepare(source, str(tmp_path / "dataset"), SerialExecutor(), settings=settings)
    executor = CountingExecutor(workers)
    graph = TaskGraph(dataset, small_settings(), executor)
    list(graph.segment(random_start, range(1, 4)))
    before = re.compile(r"read-|start-|needed-|renumber-|(chunk|replica|offer|barrier|pull)-\w+-0")
    in_epochs = [key for key in executor.keys if not before.match(key)]
    shape = Shape(workers, threads=1, memory=None)
    assert len(in_epochs) == 3 * tasks_per_epoch(dataset, small_settings(), shape)


def test_flops_of_rows():
    assert row_flops(1, 10, 3) == 10 * 3 * 4 + 9
    assert row_flops(5, 0, 6) == 5 * 72


def test_time_falls_with_threads_while_there_are_ratings():
    """Partitions are split for more threads; to wake a thread must pay."""
    dataset = dataset_of(100_000, 20_000, 20_000_000, partitions=4)
    one, two, four, eight = (
        epoch_seconds(dataset, TrainSettings(), Shape(1, threads, None), SPEED)
        for threads in (1, 2, 4, 8)
    )
    assert one == pytest.approx(2 * two, rel=0.1)
    assert two == pytest.approx(2 * four, rel=0.1)
    assert four == pytest.approx(2 * eight, rel=0.1)
    few = dataset_of(1_000, 1_000, 30_000)
    one, two = (
        epoch_seconds(few, TrainSettings(), Shape(1, threads, None), SPEED) for threads in (1, 2)
    )
    assert one == two


def test_time_grows_with_the_network():
    dataset = dataset_of(3_000_000, 20_000, 20_000_000, partitions=4)
    states = 3_020_000 * 65 * 4
    settings, shapes = TrainSettings(), (Shape(1, 2, None), Shape(2, 1, None))
    one, two = (epoch_seconds(dataset, settings, shape, SPEED) for shape in shapes)
    two_tasks, one_tasks = (tasks_per_epoch(dataset, settings, shape) for shape in shapes[::-1])
    more_tasks = two_tasks - one_tasks
    # Each of two workers gets the half of both sides that the other one solved.
    assert two - one == pytest.approx(states / 2 / 0.8e9 + more_tasks * 0.001, rel=1e-6)


def test_few_partitions_for_little_work_and_some_a_thread_for_much():
    settings, many = TrainSettings(), Shape(4, 4, None)
    assert best_partitions(dataset_of(600, 9000, 100_000), settings, many, SPEED) == 1
    assert best_partitions(dataset_of(10**5, 10**5, 10**7), settings, ONE, SPEED) == 10
    assert best_partitions(dataset_of(10**5, 10**5, 2 * 10**7), settings, many, SPEED) == 16
    slow = Speed(flops={"users": 1e9, "items": 1e9}, test_ratings=1e7)
    assert best_partitions(dataset_of(10**5, 10**5, 10**7), settings, many, slow) == 48


@pytest.mark.parametrize("rank", [1, 40, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dataset", [dataset_of(1, 1, 1), dataset_of(30, 9000, 9100), BIG])
def test_speed_is_measured_on_any_shape(dataset, rank):
    speed = measured_speed(dataset, TrainSettings(rank=rank))
    assert all(flops > 0 for flops in speed.flops.values())
    assert speed.test_ratings > 0


def test_a_plan_has_it_all_and_is_plain_json():
    shape = Shape(4, 2, 8 << 30)
    made = plan(BIG, TrainSettings(), shape, SPEED)
    value = json.loads(json.dumps(made.to_json()))
    assert value["memory"]["peak"] == made.memory.peak
    assert value["shape"] == {"workers": 4, "threads": 2, "memory": 8 << 30}
    assert value["partitions"] == {"users": 200, "items": 200}
    assert value["fits"] is (made.memory.peak <= USABLE * shape.memory)


# --- disk, and the time of all ---


def test_samples_take_room_until_the_model_is_written():
    dataset = dataset_of(100_000, 20_000, 1_000_000, partitions=2)
    als = plan(dataset, TrainSettings(rank=32), ONE, SPEED)
    kept = TrainSettings(method="gibbs", rank=32, samples=40, keep_samples=True)
    gibbs = plan(dataset, kept, ONE, SPEED)
    # 33 float32 a row, a little compressed, with id and count.
    state = als.disk.model
    assert 0.9 < state / (120_000 * 33 * 4) < 1
    assert gibbs.disk.model == pytest.approx(40 * state, rel=0.05)
    samples = 40 * 120_000 * 33 * 4
    assert gibbs.disk.checkpoints - als.disk.checkpoints == pytest.approx(samples, rel=1e-6)


def test_the_number_of_reduced_samples_does_not_set_the_room():
    dataset = dataset_of(100_000, 20_000, 1_000_000, partitions=2)
    als = plan(dataset, TrainSettings(rank=32), ONE, SPEED)
    few, many = (
        plan(dataset, TrainSettings(method="gibbs", rank=32, samples=samples), ONE, SPEED).disk
        for samples in (40, 400)
    )
    assert few == many
    assert few.model == als.disk.model
    # At most four samples wait, beside reductions of rank 128, for the epoch and two checkpoints.
    room = few.checkpoints - als.disk.checkpoints
    assert 120_000 * 4 * (128 + 4 * 33) < room <= 120_000 * 4 * (4 * 130 + 10 * 33)


def test_samples_take_time():
    dataset = dataset_of(100_000, 20_000, 1_000_000, partitions=2)
    few, many = (
        plan(dataset, TrainSettings(method="gibbs", samples=samples, keep_samples=True), ONE, SPEED)
        for samples in (10, 40)
    )
    assert few.epoch_seconds == many.epoch_seconds
    more = many.training_seconds - few.training_seconds - 30 * few.epoch_seconds
    # Half a gigabyte written as samples, read, and written as Parquet.
    assert 3 < more < 10
    als = plan(dataset, TrainSettings(epochs=10), ONE, SPEED)
    assert als.training_seconds == pytest.approx(10 * als.epoch_seconds, rel=0.1)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("partitions", "keep_samples"), [(1, True), (4, True), (4, False)])
def test_time_and_room_of_a_training_by_samples(tmp_path, partitions, keep_samples):
    ratings = str(tmp_path / "ratings")
    write_ratings(GenerateSettings(n_users=60_000, n_items=20_000, n_ratings=2_000_000), ratings)
    prepare_settings = PrepareSettings(partitions=partitions, test_fraction=0.1)
    dataset = prepare(ratings, str(tmp_path / "d"), SerialExecutor(), settings=prepare_settings)
    settings = TrainSettings(
        method="gibbs", rank=32, burn_in=4, samples=20, keep_samples=keep_samples
    )
    kept = tmp_path / "kept"
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            memory_limit=0,
            dashboard_address=":0",
            host="127.0.0.1",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        executor = DaskExecutor(client)
        # Kernels are loaded, and their first runs are slow.
        warm = replace(settings, epochs=None, burn_in=1, samples=1)
        train(dataset, str(tmp_path / "warm"), warm, executor)
        made = plan(dataset, settings, executor.shape, measured_speed(dataset, settings))
        (pid,) = client.run(os.getpid).values()
        start, before = time.monotonic(), processor_seconds(pid)
        checkpoints = CheckpointSettings(directory=str(kept))
        train(dataset, str(tmp_path / "model"), settings, executor, checkpoints=checkpoints)
        seconds = time.monotonic() - start
        computed = (processor_seconds(pid) - before) / executor.shape.threads
    model, samples = (room(tmp_path / "model"), room(kept))
    print(
        f"\n{partitions} partitions: {made.training_seconds:.1f} s estimated, {seconds:.1f} taken; "
        f"model {made.disk.model / MIB:.0f} MiB estimated, {model / MIB:.0f} there; "
        f"checkpoints {made.disk.checkpoints / MIB:.0f} and {samples / MIB:.0f} MiB"
    )
    assert made.disk.model == pytest.approx(model, rel=0.1)
    if keep_samples:
        assert made.disk.checkpoints == pytest.approx(samples, rel=0.15)
    else:  # What is there at the end is less than there was.
        assert samples <= 1.05 * made.disk.checkpoints
    # A machine that does other things as well takes longer than the processor has to.
    assert 0.5 * min(seconds, computed) <= made.training_seconds <= 1.4 * seconds


def room(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


# --- patience ---


def test_patience_keeps_both_sides_of_the_best_epoch():
    patient = StopSettings(patience=3)
    without = memory_of_a_worker(BIG, TrainSettings(), ONE)
    memory = memory_of_a_worker(BIG, TrainSettings(), ONE, stopping=patient)
    rows = BIG.users.n_rows + BIG.items.n_rows
    assert memory.states - without.states == rows * (64 + 1) * 4
    limit = replace(ONE, memory=int(without.peak / USABLE) + 1)
    check_fits(BIG, TrainSettings(), limit)
    with pytest.raises(InputError, match="no --patience"):
        check_fits(BIG, TrainSettings(), limit, stopping=patient)


@pytest.mark.slow
def test_that_is_what_a_training_holds(tmp_path, source):
    """Of a model that fits too well, whose first epochs are the best."""
    dataset = prepare(
        source,
        str(tmp_path / "dataset"),
        SerialExecutor(),
        settings=PrepareSettings(test_fraction=0.3),
    )
    settings = small_settings(epochs=8, factor_regularization=0.01)

    def held(name, stopping):
        counts = []

        def count(figures):
            gc.collect()
            counts.append(sum(type(it).__name__ == "SolvedSide" for it in gc.get_objects()))

        model = str(tmp_path / name)
        train(dataset, model, settings, SerialExecutor(), stopping=stopping, on_epoch=count)
        return counts, read_manifest(model).figures.epoch

    without, _ = held("without", StopSettings())
    patient, best = held("patient", StopSettings(patience=8))
    assert best < 6
    assert patient[6] - without[6] == 2


# --- shapes of clusters ---


def test_shape_of_a_cluster(client):
    shape = DaskExecutor(client).shape
    assert (shape.workers, shape.threads) == (1, 2)
    assert shape.memory is None or shape.memory > 0


def test_shape_of_a_local_cluster_before_it_is_there():
    settings = ClusterSettings(workers=3, threads=2, memory="2GiB")
    assert settings.shape == Shape(3, 2, 2 << 30)
    assert ClusterSettings(memory="0").shape.memory is None
    total = ClusterSettings(memory="1.0").shape.memory
    assert ClusterSettings(memory="0.5").shape.memory == pytest.approx(total / 2, abs=1)
    assert 0 < ClusterSettings(memory="auto").shape.memory <= total
    with pytest.raises(InputError, match="--memory is 'much'"):
        _ = ClusterSettings(memory="much").shape
    with pytest.raises(InputError, match="--workers is 0"):
        _ = ClusterSettings(workers=0).shape


# --- commands ---


def test_plan_prints_a_table_or_json(tmp_path, source, capsys):
    dataset = tmp_path / "dataset"
    prepare(source, str(dataset), SerialExecutor())
    options = ["--rank", "4", "--workers", "2", "--threads", "1", "--memory", "1GiB"]
    main(["plan", str(dataset), *options])
    table = capsys.readouterr().out
    for words in ("peak of a worker", "1.0 GiB", "tasks per epoch", "seconds in total"):
        assert words in table
    main(["plan", str(dataset), *options, "--json"])
    value = json.loads(capsys.readouterr().out)
    assert value["shape"] == {"workers": 2, "threads": 1, "memory": 1 << 30}
    assert value["fits"]


def test_train_refuses_what_cannot_fit_before_it_starts(tmp_path, source):
    class SmallExecutor(CountingExecutor):
        shape = Shape(workers=1, threads=1, memory=100 * MIB)

    dataset = prepare(source, str(tmp_path / "dataset"), SerialExecutor())
    executor = SmallExecutor()
    with pytest.raises(InputError, match="limit of 100 MiB"):
        train(dataset, str(tmp_path / "model"), small_settings(), executor)
    assert not executor.keys
    assert not (tmp_path / "model").exists()


# --- estimates against a real training ---


@pytest.fixture(scope="module")
def two_million(tmp_path_factory):
    """A dataset whose blocks and states outweigh a worker's own memory."""
    folder = tmp_path_factory.mktemp("two-million")
    ratings = str(folder / "ratings")
    write_ratings(GenerateSettings(n_users=300_000, n_items=80_000, n_ratings=2_300_000), ratings)
    settings = PrepareSettings(partitions=4, test_fraction=0.1)
    return prepare(ratings, str(folder / "dataset"), SerialExecutor(), settings=settings)


def high_water(pid):
    """Return the most memory that a process has had, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024


def processor_seconds(pid):
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_estimates_are_close_to_what_is_measured(tmp_path, two_million, workers, monkeypatch):
    # Dask leaves the environment of an earlier test's cluster in this process, for all later ones.
    for option in WORKER_ENVIRONMENT:
        monkeypatch.delenv(option.rpartition(".")[2], raising=False)
    settings = TrainSettings(rank=64, epochs=13)
    peaks, under, over = [], [], []
    with (
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=":0",
            host="127.0.0.1",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        pids = list(client.run(os.getpid).values())
        executor = DaskExecutor(client)
        assert executor.shape == Shape(workers, 1, None)

        def plans():
            """Return a plan by the speed of each of as many cores as train, at the same time."""
            speeds = [pool.submit(measured_speed, two_million, settings) for _ in pids]
            return [plan(two_million, settings, executor.shape, one.result()) for one in speeds]

        # By turns, as a machine's speed may change meanwhile.
        made = plans()
        for turn in range(3):
            seconds, processor = [], []

            def on_epoch(figures, seconds=seconds, processor=processor):
                seconds.append(figures.seconds)
                processor.append(sum(processor_seconds(pid) for pid in pids))

            train(two_million, str(tmp_path / f"{turn}"), settings, executor, on_epoch=on_epoch)
            peaks.append(max(high_water(pid) for pid in pids))
            before, made = made, plans()
            estimated = statistics.mean(one.epoch_seconds for one in before + made)
            # An epoch is submitted while the one before runs, so what one takes shows over two.
            elapsed = statistics.median(np.convolve(seconds[2:-1], [0.5, 0.5], "valid"))
            computed = (processor[-2] - processor[2]) / (len(processor) - 4) / workers
            print(
                f"\n{workers} workers: epoch {estimated:.2f} s estimated, "
                f"{elapsed:.2f} elapsed, {computed:.2f} on the processor"
            )
            under.append(estimated / min(computed, elapsed))
            over.append(estimated / elapsed)

    memory, peak = made[0].memory, peaks[0]
    print(f"peak {memory.peak / MIB:.0f} MiB estimated, {peak / MIB:.0f} measured")
    assert peak > 2 * PROCESS_BYTES
    assert memory.peak == pytest.approx(peak, rel=CLOSE)
    # On a machine that does nothing else, both are about the same.
    assert statistics.median(under) >= 1 - CLOSE
    assert statistics.median(over) <= 1 + CLOSE
