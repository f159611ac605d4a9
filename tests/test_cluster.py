import time

import pytest
from dask.utils import key_split
from distributed import Client

from dask_als.cluster import ClusterSettings, DaskExecutor, connected, current_client
from dask_als.errors import InputError, JobError


def test_results_come_back_in_order(client):
    executor = DaskExecutor(client)
    handles = [executor.submit(pow, 2, n, key=f"power-{n}") for n in range(5)]
    assert executor.gather(handles) == [1, 2, 4, 8, 16]
    assert sorted(executor.as_completed(handles)) == [1, 2, 4, 8, 16]


def test_handles_stand_for_results_inside_lists_and_dictionaries(client):
    executor = DaskExecutor(client)
    one, two = (executor.submit(int, n, key=f"number-{n}") for n in (1, 2))
    total = executor.submit(sum, [one, two], key="sum-0")
    assert executor.gather([total]) == [3]
    values = executor.submit(dict, {"a": one, "b": two}, key="dict-0")
    assert executor.gather([values]) == [{"a": 1, "b": 2}]


def test_the_same_key_twice_is_two_tasks(client):
    """Dask would take the second for the first, and another training's results for ours."""
    first, second = DaskExecutor(client), DaskExecutor(client)
    ones = [first.submit(int, number, key="solve-users-1-0") for number in (1, 2)]
    other = second.submit(int, 3, key="solve-users-1-0")
    assert first.gather(ones) == [1, 2]
    assert second.gather([other]) == [3]
    assert first.gather(ones) == [1, 2]


def test_tasks_are_grouped_by_what_they_do(client):
    """Their keys, on the scheduler, begin with the words that Dask's pages group by."""
    executor = DaskExecutor(client)
    handle = executor.submit(int, 1, key="solve-users-12-3")
    executor.gather([handle])
    (key,) = [key for key in client.who_has() if key.startswith("solve-users-12-3")]
    assert key_split(key) == "solve-users"


def test_an_error_of_a_task_is_raised(client):
    def fail():
        raise InputError("no such thing")

    executor = DaskExecutor(client)
    handle = executor.submit(fail, key="fail-0")
    with pytest.raises(InputError, match="no such thing"):
        executor.gather([handle])
    with pytest.raises(InputError, match="no such thing"):
        list(executor.as_completed([handle]))


def test_a_result_is_freed_with_its_handle(client):
    executor = DaskExecutor(client)
    handle = executor.submit(int, 7, key="freed-0")
    executor.gather([handle])
    assert any(key.startswith("freed-0") for key in client.who_has())
    del handle
    deadline = time.monotonic() + 5
    while any(key.startswith("freed-0") for key in client.who_has()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_noted_starts_at_once(client):
    """A graph with all tasks noted since the last wait reaches the scheduler in one piece."""
    executor = DaskExecutor(client)
    first = executor.submit(int, 1, key="first-0")
    total = executor.submit(sum, [first, first], key="second-0")
    alone = executor.submit(int, 5, key="third-0")
    assert executor.gather([total]) == [2]
    assert executor.gather([alone, first]) == [5, 1]


def test_threads_are_those_of_all_workers(client):
    assert DaskExecutor(client).threads == 2


def test_an_address_is_connected_to(client):
    with connected(ClusterSettings(address=client.scheduler.address)) as other:
        assert other.scheduler.address == client.scheduler.address


def test_a_bad_address_is_told(client):
    with (
        pytest.raises(InputError, match=r"'nowhere'; it must be local or an address"),
        connected(ClusterSettings(address="nowhere")),
    ):
        pass


def test_a_scheduler_that_is_not_there_is_told():
    with (
        pytest.raises(JobError, match="no scheduler at tcp"),
        connected(ClusterSettings(address="tcp://127.0.0.1:9", timeout="500ms")),
    ):
        pass


def test_a_local_cluster_listens_on_loopback_and_runs_processes_of_its_own():
    settings = ClusterSettings(workers=1, threads=1, dashboard="127.0.0.1:0")
    with connected(settings) as client:
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
        assert "127.0.0.1" in client.dashboard_link
        (pid,) = client.run(__import__("os").getpid).values()
        assert pid != __import__("os").getpid()


def test_current_client_is_the_one_dask_would_use(client):
    with Client(client.scheduler.address) as own:
        assert current_client() is own
