import pytest
from distributed import Client, LocalCluster


@pytest.fixture(scope="session")
def client():
    """A cluster of one worker with two threads, in this process."""
    with (
        LocalCluster(
            processes=False,
            n_workers=1,
            threads_per_worker=2,
            dashboard_address=":0",
            host="127.0.0.1",
            protocol="tcp",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
