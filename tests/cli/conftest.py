import click
import pytest

from dask_als.cli.main import cli


@pytest.fixture(autouse=True, scope="session")
def dashboards_on_any_port():
    """Let tests run while another process has the default port of the dashboard.

    Dask leaves a socket to the garbage collector where the port is taken, and warnings are errors.
    """
    context = click.Context(cli)
    for name in cli.list_commands(context):
        for parameter in cli.get_command(context, name).params:
            if parameter.name == "dashboard":
                parameter.default = "127.0.0.1:0"
