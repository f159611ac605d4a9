import json
from pathlib import Path

import pytest

from dask_als.errors import ClusterLostError, InputError
from dask_als.jobs.job_file import job_from_toml
from dask_als.jobs.result import StepResult, recorded


@pytest.fixture
def job(tmp_path):
    return job_from_toml(
        f'name = "a"\noutput = "{tmp_path}/deep/o"\nsource.path = "r"\nsteps = ["train"]'
    )


def written(job):
    return json.loads(Path(job.result).read_text())


def test_it_is_kept_up_to_date(job):
    with recorded(job, "seven") as result:
        assert written(job)["status"] == "running"
        assert written(job)["exit_code"] is None
        result.add(StepResult(step="train", status="done", seconds=1.5, path="m", reason="new"))
        assert written(job)["steps"][0]["seconds"] == 1.5
    end = written(job)
    assert (end["run_id"], end["status"], end["exit_code"]) == ("seven", "succeeded", 0)
    assert end["error"] is None
    marker = {"made_by": "dask_als", "kind": "job result"}
    assert end == {**marker, **result.to_json()}


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("rank is\n0"), 2, "rank is 0"),
        (ClusterLostError("gone"), 3, "gone"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("odd"), 1, "ValueError: odd"),
    ],
)
def test_a_failure(job, error, code, text):
    with pytest.raises(type(error)), recorded(job):
        raise error
    end = written(job)
    assert (end["status"], end["exit_code"], end["error"]) == ("failed", code, text)


def test_each_run_has_its_own_name(job):
    with recorded(job) as one:
        pass
    with recorded(job) as other:
        assert one.run_id != other.run_id


def test_a_run_leaves_the_result_of_another_that_is_at_work(job):
    with recorded(job) as one:
        with pytest.raises(InputError, match=f"in use by run {one.run_id}"), recorded(job):
            pass
        assert written(job)["run_id"] == one.run_id


def test_an_output_that_cannot_be_written(job, tmp_path):
    (tmp_path / "deep").write_text("a file")
    with pytest.raises(InputError, match="deep/o cannot be written"), recorded(job):
        pass
