"""Several homes exchange rows: what travels, and that it does not show in a model."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data import bits, generated, small_settings, write_csv
from support.made_blocks import block_with, state_of

from dask_als.core.blocks import Factors
from dask_als.core.executor import PeersInProcess, SerialExecutor
from dask_als.core.side import USERS
from dask_als.core.task_keys import TaskKey
from dask_als.data.prepare import prepare
from dask_als.settings.data import PrepareSettings
from dask_als.solvers.base import HalfEpoch, SolvedPart
from dask_als.solvers.implicit import ImplicitLeastSquares
from dask_als.solvers.least_squares import LeastSquares
from dask_als.solvers.objective import NO_SUMS
from dask_als.training import home_tasks
from dask_als.training.home_tasks import Needed, join_offers, needed_rows, offer, pull, renumbered
from dask_als.training.start import random_start
from dask_als.training.task_graph import TaskGraph
from dask_als.training.train import train


class SerialWorkers(SerialExecutor):
    """Several workers, one after another in this process."""

    def __init__(self, n_workers):
        self.workers = frozenset(f"worker {number}" for number in range(n_workers))


METHODS = {
    "als": {},
    "float64": {"dtype": "float64"},
    "items first": {"first": "items"},
    "by count": {"regularization_scaling": "count"},
    "implicit": {"feedback": "implicit"},
    "gibbs": {"method": "gibbs", "epochs": None, "burn_in": 1, "samples": 2},
    "row priors": {"implicit_attributes": "both"},
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Datasets of the same ratings by the number of partitions."""
    directory = tmp_path_factory.mktemp("datasets")
    source = write_csv(directory / "ratings.csv", generated(40, 60, 500))
    return {
        partitions: prepare(
            str(source),
            str(directory / f"dataset-{partitions}"),
            SerialExecutor(),
            settings=PrepareSettings(partitions=partitions, test_fraction=0.2),
        )
        for partitions in (1, 2, 7, 16)
    }


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
def test_homes_do_not_show(tmp_path, datasets, settings):
    settings = small_settings(**settings)
    train(datasets[1], str(tmp_path / "one"), settings, SerialExecutor())
    for partitions, workers in ((2, 2), (7, 3), (16, 8)):
        model = tmp_path / f"{partitions}-{workers}"
        train(datasets[partitions], str(model), settings, SerialWorkers(workers))
        assert bits(model) == bits(tmp_path / "one"), (partitions, workers)


class Handle:
    """The handle of a task that never runs."""

    def __init__(self, key, args):
        self.key = key
        self.n_edges = sum(1 for _ in handles_in(args))


def handles_in(value):
    if isinstance(value, Handle):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from handles_in(item)


class Enough(Exception):
    pass


class Recorder(SerialWorkers):
    """Records tasks, and runs none."""

    def __init__(self, n_workers):
        super().__init__(n_workers)
        self.tasks = []

    def submit(self, function, *args, key, worker=None):
        self.tasks.append(Handle(key, args))
        return self.tasks[-1]

    def reference(self, handle):
        return handle.key

    def gather(self, handles):
        raise Enough


def edges_of_an_epoch(dataset, n_workers):
    """Return the edges that lead to the tasks of the first epoch."""
    recorder = Recorder(n_workers)
    graph = TaskGraph(dataset, small_settings(), recorder)
    with pytest.raises(Enough):
        list(graph.segment(random_start, range(1, 4)))
    keys = ((task, TaskKey.parse(task.key)) for task in recorder.tasks)
    return sum(task.n_edges for task, key in keys if key is not None and key.epoch == 1)


@pytest.mark.parametrize("n_workers", [2, 4, 8, 16])
def test_the_edges_of_a_graph_grow_with_homes_and_partitions(datasets, n_workers):
    dataset = datasets[16]
    n_test = sum(part.test_ratings > 0 for part in dataset.users.partitions)
    edges = edges_of_an_epoch(dataset, n_workers)
    # A solve has its block, its rows and the fixed ones; it is offered; offers are joined and
    # pulled. Held-out ratings have one more, as each comes with its side.
    assert edges == 4 * 32 + 6 * n_workers + 5 * n_test + 4


def test_a_home_gets_the_rows_that_its_blocks_use():
    blocks = [block_with([2, 0, 3], 50, seed=1), block_with([4], 50, seed=2, start=3)]
    needed = needed_rows(blocks, 50)
    used = sorted({*blocks[0].indices.tolist(), *blocks[1].indices.tolist()})
    assert needed.rows.tolist() == used
    for block in blocks:
        numbered = renumbered(block, needed)
        assert needed.rows[numbered.indices].tolist() == block.indices.tolist()
        assert numbered.indptr is block.indptr


@given(data=st.data(), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_pulled_rows_are_those_needed(data, sizes):
    """Of homes of one or two partitions each, in messages of few rows."""
    n_rows, rank = sum(sizes), 3
    chosen = data.draw(st.lists(st.booleans(), min_size=n_rows, max_size=n_rows))
    rated = np.array(data.draw(st.lists(st.booleans(), min_size=n_rows, max_size=n_rows)))
    whole = state_of(0, n_rows, rank)
    bounds = np.cumsum([0, *sizes]).tolist()
    rows = [range(*pair) for pair in pairwise(bounds)]
    parts = [
        SolvedPart(whole[its.start : its.stop], rated[its.start : its.stop], NO_SUMS)
        for its in rows
    ]
    method, peers = LeastSquares(small_settings(dtype="float64"), 0.0), SerialExecutor.peers
    offers = [
        offer(method, peers, rows[i : i + 2], parts[i : i + 2], parts[i : i + 2])
        for i in range(0, len(parts), 2)
    ]
    offered = join_offers(method, HalfEpoch(USERS, 1), offers, None)
    needed = Needed(np.flatnonzero(chosen).astype(np.int32), n_rows)
    held = pull(peers, offered, needed).fixed
    wanted = method.join_parts(HalfEpoch(USERS, 1), parts)
    assert held.mean_bias == wanted.mean_bias
    assert held.solution.bias.tolist() == wanted.solution.bias[needed.rows].tolist()
    assert held.solution.factors.tolist() == wanted.solution.factors[needed.rows].tolist()


def test_rows_come_in_several_messages(monkeypatch):
    monkeypatch.setattr(home_tasks, "_BYTES_A_MESSAGE", 100)
    part = SolvedPart(state_of(0, 40), np.ones(40, bool), NO_SUMS)
    method, asked = LeastSquares(small_settings(dtype="float64"), 0.0), []

    class Counting(PeersInProcess):
        def ask(self, requests, function, receive):
            asked.extend(requests)
            super().ask(requests, function, receive)

    offers = [offer(method, Counting(), [range(40)], [part], [part])]
    offered = join_offers(method, HalfEpoch(USERS, 1), offers, None)
    held = pull(Counting(), offered, Needed(np.arange(0, 40, 2, dtype=np.int32), 40))
    assert len(asked) == 10
    assert held.fixed.solution.factors.tolist() == part.solution.factors[::2].tolist()


@pytest.mark.parametrize("cuts", [[], [100], [4096], [5000, 9000], [4096, 8192, 9999]])
def test_the_gram_matrix_of_homes_is_that_of_the_side(cuts):
    factors = np.random.default_rng(0).normal(size=(10_000, 3)).astype(np.float32)
    rows = [range(*pair) for pair in pairwise([0, *cuts, len(factors)])]
    method = ImplicitLeastSquares(small_settings(feedback="implicit"))
    start = [
        method.start_part(Factors(np.zeros(len(its), np.float32), factors[its.start : its.stop]))
        for its in rows
    ]
    homes = [method.sums_of_home([its], [part]) for its, part in zip(rows, start, strict=True)]
    step = HalfEpoch(USERS, 1)
    found = method.join_homes(step, homes, Factors(np.zeros(0), np.zeros((0, 3))))
    wanted = method.join_parts(step, start)
    assert found.shared.gram.tobytes() == wanted.shared.gram.tobytes()
    assert found.shared.n_rows == wanted.shared.n_rows == 10_000
