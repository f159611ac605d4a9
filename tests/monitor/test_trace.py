"""A trace on storage that fails: one error at the end, and whole lines only."""

import json
import os
import resource
from contextlib import contextmanager

import pytest

from dask_als.core.run_events import HalfEpochTimes, PartitionTimes
from dask_als.errors import JobError
from dask_als.monitor.trace import traced


def half(epoch):
    partition = PartitionTimes(
        number=0, worker="tcp://a:1", ratings=9, start=1.0, solving=0.5, waiting=0.0
    )
    return HalfEpochTimes(epoch, "users", 1.0, 1.0, 0.5, 0.0, 0.5, (partition,))


@contextmanager
def largest_file(n_bytes):
    """Let the system refuse to make any file longer, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def epochs_in(path):
    return [json.loads(line).get("epoch") for line in path.read_text().splitlines()]


def train(path, done):
    with traced(str(path)) as write:
        write(half(1))
        with largest_file(os.path.getsize(path) + 30):
            write(half(2))
            write(half(3))
        write(half(4))
        done.append("the rest of the training")


def test_a_disk_that_fills_up_costs_the_rest_of_the_trace_only(tmp_path):
    path, done = tmp_path / "t.jsonl", []
    with pytest.raises(JobError, match=r"t.jsonl is incomplete, as it .*: .*File too large"):
        train(path, done)
    assert done
    assert epochs_in(path) == [None, 1]
    assert path.read_bytes().endswith(b"\n")


def fail_to_train(path):
    with traced(str(path)) as write:
        with largest_file(os.path.getsize(path)):
            write(half(1))
        raise OSError("of the training")


def test_an_error_of_the_training_is_not_hidden_by_its_trace(tmp_path):
    path = tmp_path / "t.jsonl"
    with pytest.raises(OSError, match="of the training"):
        fail_to_train(path)
    assert epochs_in(path) == [None]
