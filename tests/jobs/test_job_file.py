from pathlib import Path

import fsspec
import pytest
from support.data import notebook_settings

from dask_als.errors import InputError
from dask_als.jobs.job_file import STEPS, Job, job_from_toml, read_job
from dask_als.settings.schedule import ScheduleSettings

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.toml"))
SMALLEST = 'name = "a"\noutput = "o"\nsource.path = "r.csv"\nsteps = ["prepare", "train"]\n'


def test_where_things_go():
    job = job_from_toml(SMALLEST)
    assert (job.dataset, job.model, job.checkpoints) == ("o/dataset", "o/model", "o/checkpoints")
    assert (job.evaluation, job.recommendations) == ("o/evaluation.json", "o/recommendations")
    assert job.result == "o/result.json"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_the_shipped_jobs(path):
    job = read_job(str(path))
    assert job.name == path.stem
    assert job_from_toml(job.to_toml()) == job


def test_the_notebooks_settings():
    job = read_job(str(JOBS[[path.stem for path in JOBS].index("notebook")]))
    assert job.train == notebook_settings(epochs=100)
    assert job.prepare.test_fraction == 0


def test_all_of_it_survives_the_text():
    text = SMALLEST + (
        "[checkpoint]\nminutes = 3\n[prepare]\npartitions = 7\n[cluster.local]\nthreads = 2\n"
        '[cluster.kubernetes]\nvolume_claim = "data"\nnode_selectors = { "a.b/c" = "d" }\n'
        'environment = { AWS_REGION = "eu" }\n'
    )
    job = job_from_toml(text)
    assert job.cluster.kubernetes.node_selectors == {"a.b/c": "d"}
    assert job_from_toml(job.to_toml()) == job


def test_no_comments_are_another_setting_than_none():
    job = job_from_toml(SMALLEST + 'source.columns.comment = ""\n')
    assert job.source.columns.comment == ""
    assert job_from_toml(job.to_toml()) == job
    plain = job_from_toml(SMALLEST)
    assert plain.source.columns.comment is None
    assert job_from_toml(plain.to_toml()) == plain
    assert job_from_toml(SMALLEST + 'source.columns.encoding = ""\n') == plain


def test_changes():
    changes = [
        "train.rank=64",
        "train.dtype=float64",
        "cluster.kubernetes.environment.A=b=c",
        'name="7"',
        "source.path = s3://bucket/r.csv",
        'steps=["train"]',
    ]
    job = job_from_toml(SMALLEST, changes)
    assert (job.train.rank, job.train.dtype, job.name) == (64, "float64", "7")
    assert job.cluster.kubernetes.environment == {"A": "b=c"}
    assert job.source.path == "s3://bucket/r.csv"
    assert job.steps == ("train",)


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ("train.rank", "--set train.rank is not KEY=VALUE"),
        ("output.x=1", "--set output.x: output is a value, not a table"),
        ("train.ranks=3", "train.ranks is not known; the nearest is train.rank"),
        ("train.rank=0", r"\[train\] rank is 0; it must be a whole number"),
        ("recommend.k=0", r"\[recommend\] k is 0"),
        ("evaluate.relevant=4", "evaluate.relevant is not known; .* evaluate.relevant_from"),
        ("checkpoint.every=0", r"\[checkpoint\] checkpoint-every is 0"),
        ("cluster.local.workers=0", r"\[cluster.local\] workers is 0"),
        ("cluster.kubernetes.threads=0", r"\[cluster.kubernetes\] threads is 0"),
        ("name=My Job", "name is 'My Job'; it must be at most 40 lower-case letters"),
        ("output=''", "output is empty"),
        ('steps=["train", "prepare"]', "steps are train, prepare; .* in this order"),
        ("steps=[]", "steps are none"),
        ('steps=["prepare", "evaluate"]', "evaluate needs held-out ratings"),
        ("schedule.cron=0 25 * * *", r"\[schedule\] cron has '25' for the hour"),
        ("schedule.keep=2", "schedule.cron is missing"),
    ],
)
def test_mistakes(change, mistake):
    with pytest.raises(InputError, match=mistake):
        job_from_toml(SMALLEST, [change])


def test_a_schedule_updates_dataset_and_model():
    daily = 'schedule.cron="@daily"'
    job = job_from_toml(SMALLEST, [daily])
    assert job.schedule == ScheduleSettings(cron="@daily")
    assert job_from_toml(job.to_toml()) == job
    with pytest.raises(InputError, match="its steps must have prepare and train"):
        job_from_toml(SMALLEST, [daily, 'steps=["train"]'])


def test_evaluation_of_an_earlier_dataset():
    assert job_from_toml(SMALLEST, ['steps=["evaluate"]']).steps == ("evaluate",)


def test_a_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALLEST.removeprefix('name = "a"\n'))
    assert read_job(str(path)).name == "small"
    path.write_text("a = ]")
    with pytest.raises(InputError, match=r"small\.toml: it is not valid TOML: .*line 1"):
        read_job(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="is not text in UTF-8"):
        read_job(str(path))
    with pytest.raises(InputError, match=r"no\.toml cannot be read: No such file"):
        read_job(str(tmp_path / "no.toml"))


def test_a_file_on_an_object_store():
    fsspec.filesystem("memory").pipe("/jobs/far.toml", SMALLEST.encode())
    assert read_job("memory://jobs/far.toml").name == "a"


def test_steps_by_default():
    job = job_from_toml('name = "a"\noutput = "o"\nsource.path = "r"\nprepare.test_fraction = 0.1')
    assert isinstance(job, Job)
    assert job.steps == STEPS
