import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from support.compiling import compile_what_cannot_be_kept

from dask_als.core import jit


@pytest.fixture(autouse=True)
def nothing_said_yet():
    jit._warn_once.cache_clear()
    yield
    jit._warn_once.cache_clear()


def test_what_cannot_be_kept_is_compiled_and_told_once(caplog):
    assert compile_what_cannot_be_kept() == 2
    (record,) = caplog.records
    assert "NUMBA_CACHE_DIR" in record.message
    assert "\n" not in record.message


def test_workers_leave_telling_to_who_started_them(capfd):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as workers:
        assert workers.submit(compile_what_cannot_be_kept).result() == 2
    assert capfd.readouterr() == ("", "")
