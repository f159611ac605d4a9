"""Lines for people, without a terminal's control characters in them."""

from __future__ import annotations

import click

from dask_als.cli.printable import printable_lines


def say(text: str, *, err: bool = False) -> None:
    """Print text that may hold what others wrote: paths, ids, logs."""
    click.echo(printable_lines(text), err=err)
