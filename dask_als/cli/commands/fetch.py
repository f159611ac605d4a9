"""``dask-als fetch``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from dask_als.cli.commands.options import debug_option, json_option
from dask_als.cli.commands.saying import say


@click.command()
@click.argument("name")
@click.option("--to", default=".", help="Directory to put the archive in.")
@click.option("--base-url", help="Address of a folder with the archive.  [default: its publisher]")
@json_option
@debug_option
def fetch(name: str, to: str, base_url: str | None, as_json: bool) -> None:
    r"""Download the archive NAME of ratings and verify it; `prepare` reads it as it is.

    NAME is one of ml-100k, ml-1m, ml-10m, ml-20m, ml-25m, ml-32m, ml-latest, ml-latest-small
    (MovieLens, from GroupLens) and goodbooks (goodbooks-10k, from GitHub).

    \b
    Example:
        dask-als fetch ml-latest-small
    """
    from dask_als.cli import console
    from dask_als.data.movielens import fetch as run

    bar = console.Download(console.Screen(stderr=as_json))
    fetched = run(name, to, base_url=base_url, progress=bar)
    if as_json:
        click.echo(json.dumps(asdict(fetched), indent=2))
        return
    checked = f"MD5 {fetched.md5}" if fetched.md5 else "no published checksum; the zip is intact"
    say(f"{fetched.path} ({checked})")
    say(f"next: dask-als prepare {fetched.path} DATASET --test-fraction 0.1")
