"""Workers ask each other for parts of results."""

import time

import numpy as np
import pytest
from distributed import Client, LocalCluster
from support.data import bits, generated, small_settings, write_csv

from dask_als.cluster import exchange
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.exchange import DaskPeers
from dask_als.core.executor import SerialExecutor
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.errors import WorkersLostError
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train

PEERS = DaskPeers()
SOON = 60.0


@pytest.fixture(scope="module")
def cluster():
    """Four workers in this process."""
    with (
        LocalCluster(
            n_workers=4,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address=":0",
            memory_limit=None,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def numbers_from(first):
    return np.arange(first, first + 10.0)


def offer_of(keys, *results):
    return PEERS.offer(keys)


def some_of(results, start, stop):
    return [np.concatenate(results)[start:stop]]


def fail(results):
    raise ValueError("this is no answer")


def asked(offers, spans, function=some_of):
    answers = {}
    requests = list(zip(offers, spans, strict=True))
    PEERS.ask(requests, function, lambda number, arrays: answers.update({number: arrays}))
    return [answers[number][0].tolist() for number in range(len(requests))]


@pytest.fixture
def offered(cluster):
    """Results on two workers, their offers, and a worker that has none of them."""
    first, second, third, _ = sorted(cluster.nthreads())
    at = [first, first, second]
    results = [
        cluster.submit(numbers_from, 100 * n, workers=[worker], pure=False)
        for n, worker in enumerate(at)
    ]
    offers = [
        cluster.submit(offer_of, [one.key for one in its], *its, workers=[worker], pure=False)
        for its, worker in ((results[:2], first), (results[2:], second))
    ]
    return results, cluster.gather(offers), third


def test_answers_come_from_all_who_offer(cluster, offered):
    _, offers, third = offered
    spans = [(8, 12), (0, 1), (3, 3)]
    found = cluster.submit(asked, [*offers, offers[1]], spans, workers=[third], pure=False)
    assert found.result(timeout=SOON) == [[8.0, 9.0, 100.0, 101.0], [200.0], []]


def test_a_worker_answers_itself(cluster, offered):
    _, offers, _ = offered
    found = cluster.submit(asked, offers[:1], [(0, 2)], workers=[offers[0].address], pure=False)
    assert found.result(timeout=SOON) == [[0.0, 1.0]]


def test_an_error_of_the_function_is_raised(cluster, offered):
    _, offers, third = offered
    failing = cluster.submit(asked, offers[:1], [()], fail, workers=[third], pure=False)
    with pytest.raises(ValueError, match="this is no answer"):
        failing.result(timeout=SOON)


def test_results_that_dask_has_freed_are_lost(cluster, offered):
    results, offers, third = offered
    keys = [one.key for one in results]
    results.clear()
    deadline = time.monotonic() + SOON
    while any(cluster.who_has().get(key) for key in keys) and time.monotonic() < deadline:
        time.sleep(0.02)
    asking = cluster.submit(asked, offers[:1], [(0, 2)], workers=[third], pure=False)
    with pytest.raises(WorkersLostError, match="solved rows"):
        asking.result(timeout=SOON)


def test_results_that_dask_has_moved_are_found(cluster, offered):
    """The fourth worker has offered something, so it answers."""
    results, offers, third = offered
    fourth = max(cluster.nthreads())
    also = cluster.submit(numbers_from, 7, workers=[fourth], pure=False)
    cluster.submit(offer_of, [also.key], also, workers=[fourth], pure=False).result(timeout=SOON)
    cluster.replicate(results[2:], workers=[offers[1].address, fourth], n=2)
    moved = exchange.Offered(third, offers[1].keys)
    found = cluster.submit(asked, [moved], [(0, 2)], workers=[offers[0].address], pure=False)
    assert found.result(timeout=SOON) == [[200.0, 201.0]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A dataset of nine partitions, settings, and the bits of the model of one partition."""
    directory = tmp_path_factory.mktemp("undisturbed")
    source = str(write_csv(directory / "ratings.csv", generated(60, 80, 900)))
    for partitions in (1, 9):
        settings = PrepareSettings(partitions=partitions, test_fraction=0.2)
        prepare(source, str(directory / f"{partitions}"), SerialExecutor(), settings=settings)
    settings = small_settings(epochs=6)
    one = str(directory / "model")
    train(open_dataset(str(directory / "1")), one, settings, SerialExecutor())
    return open_dataset(str(directory / "9")), settings, bits(one)


def test_bits_do_not_depend_on_the_workers(tmp_path, cluster, undisturbed):
    dataset, settings, wanted = undisturbed
    train(dataset, str(tmp_path / "model"), settings, DaskExecutor(cluster))
    assert bits(tmp_path / "model") == wanted


def test_a_pull_that_fails_is_a_lost_worker(tmp_path, cluster, undisturbed, monkeypatch):
    dataset, settings, wanted = undisturbed
    failed = []
    ask = DaskPeers.ask

    def ask_or_fail(self, requests, function, receive):
        if len(failed) < 2:
            failed.append(len(requests))
            raise WorkersLostError("a worker is gone")
        ask(self, requests, function, receive)

    monkeypatch.setattr(DaskPeers, "ask", ask_or_fail)
    train(dataset, str(tmp_path / "model"), settings, DaskExecutor(cluster))
    assert len(failed) == 2
    assert bits(tmp_path / "model") == wanted
