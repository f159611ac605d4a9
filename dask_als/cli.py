"""The command line: its commands by name; an error becomes one line and an exit code."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module

import click

from dask_als import interrupts, outlets
from dask_als.errors import INTERRUPTED_EXIT_CODE, DaskALSError
from dask_als.printable import printable, printable_lines

_USAGE = 2

# In the order of use. Each is a module of `dask_als.commands`, imported when it is asked for.
COMMANDS = (
    "demo",
    "fetch",
    "generate",
    "prepare",
    "plan",
    "tune",
    "train",
    "evaluate",
    "recommend",
    "similar",
    "explain",
    "fold-in",
    "report",
    "run",
    "submit",
    "status",
    "logs",
    "list",
    "stop",
    "resume",
    "delete",
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    with outlets.lasting():
        code = _run(sys.argv[1:] if arguments is None else arguments)
    if code:
        interrupts.keep_exit_code()
        sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    try:
        # From here on: what is imported meanwhile may drop a Ctrl-C, too.
        with interrupts.noticed():
            cli.main(arguments, prog_name="dask-als", standalone_mode=False)
            outlets.check_written()
    except BaseException as error:
        if "--debug" in arguments:
            click.echo(printable_lines(traceback.format_exc()), err=True)
        code, message = _last_words(error)
        if message:
            click.echo(f"dask-als: {printable(' '.join(message.split()))}", err=True)
        return code
    return 0


def _last_words(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the one line that an error ends with."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code, ""
        case click.ClickException():
            return _USAGE, error.format_message()
        case DaskALSError():
            return error.exit_code, str(error)
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED_EXIT_CODE, "interrupted; nothing was left half-written"
        case _:
            return 1, f"unexpected {type(error).__name__}: {error} (--debug shows where)"


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"dask_als.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        # click's mark of lines to keep, as it is written in a raw docstring.
        command.help = (command.help or "").replace("\\b\n", "\b\n")
        return command


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(package_name="dask-als", message="dask-als %(version)s")
def cli() -> None:
    """Recommendations from ratings: biased ALS, distributed on Dask."""
