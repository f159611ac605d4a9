"""Print text without control characters of a terminal."""

from __future__ import annotations

import click

from dask_als.cli.printable import printable_lines


def say(text: str, *, err: bool = False) -> None:
    """Print text that may contain untrusted parts: paths, ids, logs."""
    click.echo(printable_lines(text), err=err)
