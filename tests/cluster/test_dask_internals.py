"""Undocumented parts of Dask that `dask_als.dask_internals` uses: each is still what it was."""

import inspect
import logging
from collections.abc import Mapping
from multiprocessing import active_children

import distributed
import pytest
from dask.tokenize import tokenize
from distributed import Client, LocalCluster, Nanny
from distributed.client import AllExit

from dask_als import dask_internals as internals
from dask_als.cluster.connect import connected, in_process_client
from dask_als.cluster.settings import ClusterSettings


@pytest.fixture(scope="module")
def local():
    """A client, and its scheduler and worker, in this process."""
    with (
        LocalCluster(
            processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield {"client": client, "scheduler": cluster.scheduler, "worker": cluster.workers[0]}


@pytest.mark.parametrize(
    ("owner", "path", "kind"),
    [
        ("client", "scheduler.identity", object),
        ("client", "scheduler_comm.interval", float),
        ("scheduler", "client_comms", dict),
        ("scheduler", "stream_comms", dict),
        ("scheduler", "plugins", dict),
        ("scheduler", "worker_plugins", dict),
        ("scheduler", "handlers", dict),
        ("scheduler", "http_server.request_callback", object),
        ("scheduler", "http_application.applications", list),
        ("worker", "batched_stream.interval", float),
        ("worker", "scheduler.unregister", object),
        ("worker", "scheduler.log_event", object),
        ("worker", "contact_address", str),
        ("worker", "handlers", dict),
        ("worker", "data", Mapping),
        ("worker", "rpc", object),
        ("worker", "loop.asyncio_loop", object),
    ],
)
def test_attributes_exist(local, owner, path, kind):
    value = local[owner]
    for name in path.split("."):
        missing = f"distributed {distributed.__version__}: a {owner} has no {path} (no {name})"
        assert hasattr(value, name), missing
        value = getattr(value, name)
    assert isinstance(value, kind), f"{path} of a {owner} is now a {type(value).__name__}"


def test_connections_have_an_interval(local):
    connections = internals.scheduler_connections(local["scheduler"])
    assert len(connections) >= 2
    for connection in connections:
        assert isinstance(connection.interval, float)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (distributed.Scheduler.unregister_worker_plugin, {"name"}),
        (distributed.Scheduler.identity, {"n_workers"}),
        (distributed.Scheduler.remove_worker, {"address", "stimulus_id", "expected", "close"}),
        (Nanny.close_gracefully, {"self"}),
    ],
)
def test_functions_take_the_parameters(function, parameters):
    now = set(inspect.signature(function).parameters)
    assert parameters <= now, f"{function.__qualname__} takes {now}"


def test_the_scheduler_describes_workers(local):
    (worker,) = internals.workers_of(local["client"])
    assert worker["nthreads"] == 1
    assert worker["memory_limit"] > 0


def test_the_dashboard_is_found_by_the_name_of_its_class(local):
    assert internals.dashboard_of(local["scheduler"]) is not None


def test_a_page_is_added_and_removed(local):
    scheduler = local["scheduler"]
    page, menu = internals.add_page(scheduler, "/some", "/", lambda *arguments: None)
    assert "status" in menu
    scheduler.http_application.add_application(page)
    internals.remove_page(scheduler, page)
    assert page not in scheduler.http_application.applications


def test_pages_have_templates():
    theme, templates = internals.dashboard_templates()
    assert theme is not None
    assert templates.get_template("base.html") is not None


def test_graphs_are_tokenized_by_their_keys():
    tasks = [internals.Graph({"a": internals.Task("a", abs, number)}) for number in (1, 2)]
    assert tokenize(tasks[0]) == tokenize(tasks[1])


def test_the_process_of_a_nanny_has_the_name():
    before = set(active_children())
    with connected(ClusterSettings(threads=1, dashboard="127.0.0.1:0")):
        names = {process.name for process in set(active_children()) - before}
    assert names == {internals.NANNY_PROCESS_NAME}


def test_silencing_restores_the_levels():
    logger = logging.getLogger("distributed")
    before = logger.level, [handler.level for handler in logger.handlers]
    with internals.silence_logging_cmgr(logging.CRITICAL):
        pass
    assert (logger.level, [handler.level for handler in logger.handlers]) == before


def test_a_plugin_is_dropped(local):
    with in_process_client() as client:
        scheduler = client.cluster.scheduler
        internals.give_to_joining_workers(scheduler, "some", None)
        assert isinstance(scheduler.worker_plugins["some"], bytes)
        internals.drop_plugin(scheduler, "some")
        assert "some" not in scheduler.worker_plugins


def test_waits_that_dask_ended_are_not_told_and_others_are(caplog):
    internals.silence_ended_waits()
    logger = logging.getLogger("asyncio")
    caplog.set_level(logging.ERROR, logger="asyncio")
    for error in (AllExit(), ValueError("other")):
        logger.error("Task exception was never retrieved", exc_info=error)
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]
