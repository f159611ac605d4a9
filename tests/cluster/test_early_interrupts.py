"""Ctrl-C while a short command is still being imported: real processes."""

import random
import signal
import subprocess
import sys
import time

import pytest

# What the installed command runs; the line says that Python itself has started.
COMMAND = """
from dask_als.__main__ import end_on_interrupt, main
end_on_interrupt()
print("started", flush=True)
main()
"""


def interrupted_after(seconds, *words):
    """Return exit code and standard error of a command that is interrupted after its start."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_an_interrupt_at_any_moment_is_one_line(count, tmp_path):
    """Of a command that ends with an error after about half a second, if it is not interrupted."""
    chance, codes = random.Random(count), []
    for _ in range(count):
        seconds = chance.uniform(0, 0.5)
        code, errors = interrupted_after(seconds, "evaluate", str(tmp_path / "m"), str(tmp_path))
        assert "Traceback" not in errors, seconds
        # click may end the line that a terminal's ^C is on.
        assert len(errors.split("\n")) - errors.startswith("\n") == 2, (seconds, errors)
        assert code in (130, 2), (seconds, errors)
        codes.append(code)
    assert 130 in codes


def test_the_early_handler_leaves_other_handlers_alone():
    program = (
        "import signal; from dask_als.core.early_signals import end_on_interrupt;"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); end_on_interrupt();"
        "print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n"
