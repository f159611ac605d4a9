"""The commands about jobs on Kubernetes, as far as they go without one."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from dask_als.cli.commands.computing import cluster_settings
from dask_als.cli.main import main
from dask_als.errors import InputError
from dask_als.jobs.job_file import job_from_toml
from dask_als.jobs.kubernetes_status import JobState, JobStatus

NOTEBOOK = Path(__file__).parents[2] / "jobs" / "notebook.toml"


def run(*arguments, **environment):
    command = [sys.executable, "-m", "dask_als", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment or None)
    return done.returncode, done.stdout, done.stderr


def test_a_dry_run_prints_the_job_as_it_will_run():
    changes = ["train.rank=7", "cluster.kubernetes.workers=5"]
    code, out, err = run("submit", NOTEBOOK, "--dry-run", *(f"--set={each}" for each in changes))
    assert (code, err) == (0, "")
    objects = list(yaml.safe_load_all(out))
    assert objects[0]["kind"] == "ConfigMap"
    assert job_from_toml(objects[0]["data"]["job.toml"]).train.rank == 7
    assert objects[-1]["kind"] == "DaskJob"
    assert objects[-1]["spec"]["cluster"]["spec"]["worker"]["replicas"] == 5


def test_a_dry_run_shows_no_secret(tmp_path):
    path = tmp_path / "job.toml"
    secrets = "\n[cluster.kubernetes.secrets]\nA_KEY = 'hush'\nB_KEY = '${NOWHERE}'\n"
    path.write_text(NOTEBOOK.read_text() + secrets)
    code, out, err = run("submit", path, "--dry-run")
    assert (code, err) == (0, "")
    assert "hush" not in out
    (secret,) = (found for found in yaml.safe_load_all(out) if found["kind"] == "Secret")
    assert secret["stringData"] == {"A_KEY": "REDACTED", "B_KEY": "REDACTED"}


def test_no_two_jobs_have_one_id():
    names = [next(yaml.safe_load_all(run("submit", NOTEBOOK, "--dry-run")[1])) for _ in range(2)]
    first, second = (found["metadata"]["name"] for found in names)
    assert first != second
    assert first.startswith("notebook-")


UNREACHABLE = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


@pytest.mark.parametrize("text", [None, "", UNREACHABLE], ids=["missing", "empty", "unreachable"])
@pytest.mark.parametrize("command", [["status", "a-job"], ["submit", NOTEBOOK]], ids=lambda c: c[0])
def test_without_a_cluster_one_line_says_so(command, text, tmp_path):
    nowhere = tmp_path / "kubeconfig"
    if text is not None:
        nowhere.write_text(text)
    code, out, err = run(*command, KUBECONFIG=str(nowhere), HOME=str(tmp_path), PATH="")
    assert (code, out) == (1, "")
    assert err.startswith("dask-als: no Kubernetes cluster")
    assert str(nowhere) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("wrong", ["workers", "colour=red", "workers=two", "environment=a"])
def test_pods_that_cannot_be(wrong):
    with pytest.raises(InputError, match=f"--pods {wrong}"):
        cluster_settings({"pods": (wrong,)})


def test_pods_from_options():
    pods = ("workers=3", "memory=2Gi", "volume_claim=", "secret_names=aws,other")
    made = cluster_settings({"pods": pods}).kubernetes
    assert (made.workers, made.memory, made.volume_claim) == (3, "2Gi", "")
    assert made.secret_names == ("aws", "other")


class OneJob:
    """Stands for the jobs of a cluster: one, which ends well after its log."""

    def __init__(self, namespace):
        self.told = []

    def submit(self, job_id, job):
        self.told.append(("submit", job_id))

    def stop(self, job_id):
        self.told.append(("stop", job_id))

    resume = delete = stop

    def followed(self, job_id, hear=None):
        yield from ("epoch 1", "epoch 2")

    def logs(self, job_id):
        return ["epoch 1"]

    def status(self, job_id):
        return JobStatus(
            job_id=job_id,
            state=JobState.SUCCEEDED,
            submitted="2026-01-01T00:00:00Z",
            attempt=1,
            exit_code=0,
            result={"steps": []},
        )

    def all(self):
        return [self.status("a-1")]


class NoSchedules:
    """Stands for the schedules of a cluster that has none."""

    def __init__(self, namespace):
        pass

    def has(self, job_id):
        return False


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["submit", str(NOTEBOOK)], {"job_id"}),
        (["submit", str(NOTEBOOK), "--wait"], {"job_id", "state", "exit_code", "result"}),
        (["status", "a-1"], {"job_id", "state", "exit_code", "result"}),
        (["stop", "a-1"], {"job_id", "state"}),
        (["resume", "a-1"], {"job_id", "state"}),
        (["resume", "a-1", "--wait"], {"job_id", "state", "exit_code"}),
        (["delete", "a-1"], {"job_id", "state"}),
    ],
    ids=lambda value: "-".join(value[::2]) if isinstance(value, list) else "",
)
def test_json_is_all_that_goes_to_the_output(arguments, expected, monkeypatch, capsys):
    for name in ("submit", "status", "stop", "resume", "delete"):
        monkeypatch.setattr(f"dask_als.cli.commands.{name}.jobs_in", OneJob)
        monkeypatch.setattr(f"dask_als.cli.commands.{name}.schedules_in", NoSchedules)
    with suppress(SystemExit):
        main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert expected <= set(json.loads(out))
    assert ("epoch 2" in err) == ("--wait" in arguments)


def test_a_log_as_json_is_an_object_a_line(monkeypatch, capsys):
    monkeypatch.setattr("dask_als.cli.commands.logs.jobs_in", OneJob)
    monkeypatch.setattr("dask_als.cli.commands.logs.schedules_in", NoSchedules)
    with suppress(SystemExit):
        main(["logs", "-f", "a-1", "--json"])
    lines = [json.loads(line)["line"] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["epoch 1", "epoch 2"]
