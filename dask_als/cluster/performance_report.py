"""Dask's performance report of a command, as a file that is replaced only if it is ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import distributed
from distributed import Client

from dask_als.core import outputs
from dask_als.core.ownership import PERFORMANCE_REPORT, marked_text


@contextmanager
def performance_report(client: Client, path: str) -> Iterator[None]:
    """Write Dask's performance report of the block, even if it fails, if Dask still answers.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    outputs.check_file(path, PERFORMANCE_REPORT)
    with TemporaryDirectory(prefix="dask-als-") as scratch, client.as_current():
        page = Path(scratch) / "report.html"
        report = distributed.performance_report(filename=str(page))
        report.__enter__()
        try:
            yield
        except BaseException as error:
            with suppress(Exception):
                report.__exit__(type(error), error, error.__traceback__)
                _write_performance_report(path, page)
            raise
        report.__exit__(None, None, None)
        _write_performance_report(path, page)


def _write_performance_report(path: str, page: Path) -> None:
    text = marked_text(PERFORMANCE_REPORT, page.read_text())
    outputs.replace_text(path, PERFORMANCE_REPORT, text)
