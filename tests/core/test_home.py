import os
import subprocess
import sys
from pathlib import Path

from dask_als.core.home import ensure_home

# As a user of whom the system knows nothing.
UNKNOWN = """
import pwd
def getpwuid(uid):
    raise KeyError(uid)
pwd.getpwuid = getpwuid
"""


def run(code):
    """Run code in a process without HOME, and return what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_user_without_a_home_can_import_what_wants_one():
    ended = run(UNKNOWN + "import dask_als, bokeh.settings")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_workers_inherit_it():
    ended = run(UNKNOWN + "import dask_als, os; os.execlp('printenv', 'printenv', 'HOME')")
    assert ended.stdout == "/nonexistent\n"


def test_a_known_user_keeps_theirs(monkeypatch):
    monkeypatch.setenv("HOME", "/some/where")
    ensure_home()
    assert Path.home() == Path("/some/where")
    monkeypatch.delenv("HOME")
    ensure_home()
    assert "HOME" not in os.environ
