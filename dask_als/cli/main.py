"""The command line: commands by name; an error becomes one line and an exit code."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

import click

from dask_als.cli import outlets
from dask_als.cli.printable import printable, printable_lines
from dask_als.cluster import interrupts
from dask_als.core.wording import option_words
from dask_als.errors import DaskALSError

_USAGE = 2

# In the order of use. Each is a module of `dask_als.cli.commands`, imported only when it runs.
COMMANDS = (
    "demo",
    "fetch",
    "generate",
    "prepare",
    "plan",
    "tune",
    "train",
    "update",
    "evaluate",
    "predict",
    "recommend",
    "export",
    "similar",
    "explain",
    "fold-in",
    "report",
    "run",
    "submit",
    "launch",
    "status",
    "logs",
    "list",
    "stop",
    "resume",
    "delete",
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    # Entered before any other import, as an import may swallow a KeyboardInterrupt.
    with outlets.lasting(), interrupts.noticed(), _log_on_stderr(), option_words():
        code = _run(sys.argv[1:] if arguments is None else arguments)
    if code:
        sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run the command line and return the exit code; after a signal, end the process."""
    try:
        cli.main(arguments, prog_name="dask-als", standalone_mode=False)
        outlets.check_written()
    except BaseException as error:
        if "--debug" in arguments:
            click.echo(printable_lines(traceback.format_exc()), err=True)
        interrupt = _signal_behind(error)
        code, message = _last_words(interrupt or error)
        if message:
            with suppress(OSError):  # The terminal may be closed.
                click.echo(f"dask-als: {printable(' '.join(message.split()))}", err=True)
        if interrupt:
            interrupts.end_process(code)
        return code
    return 0


def _signal_behind(error: BaseException) -> KeyboardInterrupt | None:
    """Return the KeyboardInterrupt of a signal if it caused an error, else None.

    click converts it to `Abort`; Python converts it to RuntimeError during class creation.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__
    return cause


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Write log messages of the package to stderr: warnings, with ``--verbose`` from INFO on."""
    logger = logging.getLogger("dask_als")
    level = logger.level
    if not logger.handlers:
        logger.addHandler(_Lines())
    try:
        yield
    finally:
        logger.setLevel(level)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"dask-als: {printable(' '.join(record.getMessage().split()))}", err=True)


def _last_words(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the one-line message of an error."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code, ""
        case click.ClickException():
            return _USAGE, error.format_message()
        case DaskALSError():
            return error.exit_code, str(error)
        case KeyboardInterrupt():
            word = interrupts.word_for(error)
            return interrupts.exit_code(error), f"{word}; nothing was left half-written"
        case click.Abort():  # A prompt without an answer.
            return _last_words(KeyboardInterrupt())
        case _:
            return 1, f"unexpected {type(error).__name__}: {error} (--debug shows the traceback)"


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"dask_als.cli.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        # In a raw docstring, click's marker for preserved lines is two characters.
        command.help = (command.help or "").replace("\\b\n", "\b\n")
        return command


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(package_name="dask-als", message="dask-als %(version)s")
def cli() -> None:
    """Recommendations from ratings: biased ALS, distributed on Dask."""
