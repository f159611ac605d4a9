import gzip
import io
import os
import subprocess
import sys
import threading
import time

import pytest
import support.prepare_oracle as oracle

from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.data.source import open_source
from dask_als.data.standard_input import as_file
from dask_als.errors import InputError

TEXT = b"userId,movieId,rating\n1,2,3\n2,2,4\n"


@pytest.fixture
def standard_input(monkeypatch):
    return lambda text: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input(tmp_path, standard_input, pack):
    standard_input(pack(TEXT))
    dataset = prepare("-", str(tmp_path / "dataset"), SerialExecutor())
    assert oracle.written(dataset.path).by_user == {(1, 2): 3.0, (2, 2): 4.0}
    assert dataset.source["path"] == "-"
    assert os.listdir(tmp_path) == ["dataset"]


def test_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(TEXT,))
    writer.start()
    dataset = prepare(str(tmp_path / "pipe"), str(tmp_path / "dataset"), SerialExecutor())
    writer.join()
    assert dataset.n_ratings == 2
    assert sorted(os.listdir(tmp_path)) == ["dataset", "pipe"]


def test_nothing_is_left_of_what_cannot_be_used(tmp_path, standard_input):
    for text, message in ((b"", "is empty"), (b"a,b\n1,2\n", "has no column 'userId'")):
        standard_input(text)
        with pytest.raises(InputError, match=message) as raised:
            prepare("-", str(tmp_path / "dataset"), SerialExecutor())
        assert str(raised.value).startswith("standard input ")
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_not_touched(tmp_path, standard_input):
    standard_input(TEXT)
    (tmp_path / "dataset").mkdir()
    with pytest.raises(InputError, match="dataset"):
        prepare("-", str(tmp_path / "dataset"), SerialExecutor())
    assert os.listdir(tmp_path) == ["dataset"]


def test_the_next_run_removes_what_a_killed_one_has_left(tmp_path, standard_input):
    """Of the same output, and nothing that is not ours or that a living run uses."""
    command = [sys.executable, "-m", "dask_als", "prepare", "-", "dataset", "--cluster=serial"]
    killed, alive = (
        subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(2)
    )
    try:
        deadline = time.monotonic() + 60
        while len(found := list(tmp_path.glob(".dataset.*.partial/*/input"))) < 2:
            assert time.monotonic() < deadline, "they did not begin to read"
            time.sleep(0.1)
        killed.kill()
        killed.wait()
        mine = tmp_path / ".dask-als-input-mine"
        mine.write_text("mine")
        standard_input(TEXT)
        prepare("-", str(tmp_path / "dataset"), SerialExecutor())
        left = [path for path in found if path.exists()]
        assert len(left) == 1
        assert len(os.listdir(tmp_path)) == 3
        assert mine.read_text() == "mine"
    finally:
        for process in (killed, alive):
            process.kill()
            process.communicate()


def test_a_file_is_read_where_it_is(tmp_path):
    with as_file(str(tmp_path / "x.csv"), str(tmp_path / "dataset")) as path:
        assert path == str(tmp_path / "x.csv")


def test_a_stream_is_no_source_elsewhere():
    with pytest.raises(InputError, match="- can be read only once"):
        open_source("-")
