import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref

import pytest

from dask_als.cluster import interrupts


class Thing:
    pass


def interrupt(_reference):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)  # the handler runs before the next instruction of this callback


def test_one_that_python_drops_is_raised_later_and_not_shown(capfd):
    thing = Thing()
    reference = weakref.ref(thing, interrupt)
    with interrupts.noticed():
        interrupts.raise_if_interrupted()
        del thing
        with pytest.raises(KeyboardInterrupt):
            interrupts.raise_if_interrupted()
    assert reference() is None
    interrupts.raise_if_interrupted()
    assert capfd.readouterr().err == ""


def test_one_that_was_dropped_before_an_inner_block_is_raised_in_it():
    thing = Thing()
    reference = weakref.ref(thing, interrupt)
    with interrupts.noticed():
        del thing
        with interrupts.noticed():
            pass
        with interrupts.noticed(), pytest.raises(KeyboardInterrupt):
            interrupts.raise_if_interrupted()
    assert reference() is None
    interrupts.raise_if_interrupted()


def test_what_a_broken_off_wait_leaves_behind_is_not_shown():
    async def wait():
        pass

    left = []

    def broken_off():
        with interrupts.noticed():
            left.append(wait())
            raise KeyboardInterrupt

    with warnings.catch_warnings():
        with pytest.raises(KeyboardInterrupt):
            broken_off()
        left.clear()


INTERRUPTED_IN_EXEC = """
from dask_als.cluster import interrupts
try:
    exec("raise KeyboardInterrupt")
except KeyboardInterrupt:
    interrupts.end_process(130)
"""


def test_the_exit_code_is_kept(tmp_path):
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_IN_EXEC)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-m", "interrupted"], env=environment)
    assert ended.returncode == 130


def test_other_errors_that_python_drops_are_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("sys.unraisablehook", lambda dropped: shown.append(dropped.exc_type))
    thing = Thing()
    reference = weakref.ref(thing, lambda _: 1 / 0)
    with interrupts.noticed():
        del thing
    assert reference() is None
    assert shown == [ZeroDivisionError]


def test_a_deferred_one_comes_after_the_block():
    done = []

    def interrupted_at_work():
        with interrupts.deferred():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt), interrupts.noticed():
        interrupted_at_work()
    assert done == ["all of it"]
