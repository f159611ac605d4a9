import pytest

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor, reduce_by_tree


@pytest.fixture(params=["serial", "dask"])
def executor(request, client):
    return SerialExecutor() if request.param == "serial" else DaskExecutor(client)


@pytest.mark.parametrize("n", [1, 2, 8, 9, 70])
def test_reduce_by_tree(executor, n):
    most = []

    def add(values):
        most.append(len(values))
        return sum(values)

    handles = [executor.submit(int, value, key=f"value-{value}") for value in range(n)]
    total = reduce_by_tree(executor, add, handles, name="add", fan_in=8)
    assert executor.gather([total]) == [n * (n - 1) // 2]
    assert max(most, default=0) <= 8


def test_the_executors_give_the_same(executor):
    handles = [executor.submit(divmod, 7, n, key=f"divide-{n}") for n in (2, 3)]
    assert executor.gather(handles) == [(3, 1), (2, 1)]
    assert sorted(executor.as_completed(handles)) == [(2, 1), (3, 1)]
