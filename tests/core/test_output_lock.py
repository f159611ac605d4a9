import subprocess
import sys

import fsspec
import pytest

from dask_als.core import output_lock
from dask_als.core.output_lock import NAME, held
from dask_als.errors import InputError


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Beats, and what is concluded from them, within a second."""
    monkeypatch.setattr(output_lock, "_SECONDS_BETWEEN_BEATS", 0.05)
    monkeypatch.setattr(output_lock, "_SECONDS_OF_SILENCE", 0.5)
    monkeypatch.setattr(output_lock, "_SECONDS_TO_SETTLE", 0.02)


@pytest.fixture(params=["local", "object store"])
def output(request, tmp_path):
    """A directory that is not there yet."""
    return str(tmp_path / "o") if request.param == "local" else f"memory://{tmp_path.name}/o"


def test_one_run_after_another(output):
    for run in ("first", "second"):
        with held(output, run):
            pass


def test_no_two_runs_at_once(output):
    with (
        held(output, "first"),
        pytest.raises(InputError, match=f"^{output} is in use by run first on .*, since 20"),
        held(output, "second"),
    ):
        pass
    with held(output, "second"):
        pass


def test_a_run_that_raised_holds_nothing(output):
    with pytest.raises(ZeroDivisionError), held(output, "first"):
        raise ZeroDivisionError
    with held(output, "second"):
        pass


def test_other_outputs_are_free(output):
    with held(output, "first"), held(f"{output}/below", "second"):
        pass


HOLD = """
import sys, time
from dask_als.core.output_lock import held
with held(sys.argv[1], "killed"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="in use by run killed"), held(str(tmp_path), "next"):
            pass
        process.kill()
        process.wait()
        with held(str(tmp_path), "next"):
            pass


def leave(output, run):
    """Leave behind what a killed run does on an object store."""
    with fsspec.open(f"{output}/{NAME}", "w") as file:
        file.write(f'{{"run_id": "{run}", "host": "h", "since": "then"}}')


def test_a_run_killed_on_an_object_store_holds_nothing():
    leave("memory://killed", "killed")
    with held("memory://killed", "next"):
        pass
    assert not fsspec.filesystem("memory").exists(f"/killed/{NAME}")


def test_the_same_run_does_not_wait(monkeypatch):
    monkeypatch.setattr(output_lock, "_SECONDS_OF_SILENCE", 1e9)
    leave("memory://resumed", "a-job")
    with held("memory://resumed", "a-job"):
        pass


def test_of_two_that_begin_at_once_one_gives_way(monkeypatch):
    """Both have seen nobody; the other one has written last."""
    real = output_lock.time.sleep

    def other_writes(seconds):
        leave("memory://both", "other")
        real(seconds)

    monkeypatch.setattr(output_lock.time, "sleep", other_writes)
    with pytest.raises(InputError, match="in use by run other"), held("memory://both", "mine"):
        pass


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/o cannot be written: .*Not a directory"),
        held(str(tmp_path / "file" / "o"), "run"),
    ):
        pass
