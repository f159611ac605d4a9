import click
import pytest

from dask_als.cli.main import cli


@pytest.fixture(autouse=True, scope="package")
def dashboards_on_any_port():
    """Let tests run while another process has the default port of the dashboard.

    Dask leaves a socket to the garbage collector where the port is taken, and warnings are errors.
    """
    context = click.Context(cli)
    commands = [cli.get_command(context, name) for name in cli.list_commands(context)]
    options = [each for command in commands for each in command.params if each.name == "dashboard"]
    with pytest.MonkeyPatch.context() as patch:
        for option in options:
            patch.setattr(option, "default", "127.0.0.1:0")
        yield
