import fcntl
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from support import compiling
from support.compiling import compile_what_cannot_be_kept, compile_with_others

from dask_als.core import jit


def nothing_said():
    if jit._mark_of_the_first.cache_info().currsize and jit._mark_of_the_first() is not None:
        os.close(jit._mark_of_the_first())
    jit._mark_of_the_first.cache_clear()
    jit._warn_once.cache_clear()


@pytest.fixture(autouse=True)
def nothing_said_yet():
    nothing_said()
    yield
    nothing_said()


def test_what_cannot_be_kept_is_compiled_and_told_once(caplog):
    assert compile_what_cannot_be_kept() == 2
    (record,) = caplog.records
    assert "NUMBA_CACHE_DIR" in record.message
    assert "\n" not in record.message


def test_of_several_workers_one_tells(capfd):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as workers:
        both = [workers.submit(compile_what_cannot_be_kept) for _ in range(2)]
        assert [one.result() for one in both] == [2, 2]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("NUMBA_CACHE_DIR") == err.count("\n") == 1


def test_processes_that_start_together_share_one_compilation(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    spawn = multiprocessing.get_context("spawn")
    ready = [tmp_path / "first", tmp_path / "second"]
    with ProcessPoolExecutor(2, mp_context=spawn) as workers:
        # The folder is known once a function is compiled; then the lock is ours until both wait.
        (folder,) = workers.submit(compiling.cache_folders).result()
        lock = os.open(os.path.join(folder, "add_two.lock"), os.O_CREAT | os.O_RDONLY, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        both = [workers.submit(compile_with_others, str(path)) for path in ready]
        deadline = time.monotonic() + 60
        while not all(path.exists() for path in ready) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert all(path.exists() for path in ready)
        assert not any(one.done() for one in both)
        os.close(lock)
        assert sorted(one.result() for one in both) == [(0, 1), (1, 0)]
    assert capfd.readouterr().err.count("compiling the kernel for this processor, once") == 1
