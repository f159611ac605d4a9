"""Schedules on a stand-in for Kubernetes: what is created, started, stopped and deleted."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from support.kubernetes_objects import Namespace

from dask_als.cli.main import main
from dask_als.errors import InputError
from dask_als.jobs.job_file import job_from_toml
from dask_als.jobs.kubernetes import Jobs
from dask_als.jobs.schedules import Schedules

ACCOUNT = Path(__file__).parents[2] / "k8s" / "base" / "schedule-account.yaml"
TEXT = """
name = "films"
output = "o"
steps = ["prepare", "train"]
source.path = "r.csv"
schedule = {cron = "0 3 * * *", history = 2}
[cluster.kubernetes.secrets]
A_KEY = "${HERE}"
"""
NIGHT = datetime(2026, 11, 28, 3, 0, tzinfo=UTC)


@pytest.fixture
def namespace(monkeypatch):
    monkeypatch.setenv("HERE", "hush")
    return Namespace(monkeypatch)


@pytest.fixture
def schedules(namespace):
    schedules = Schedules("n")
    schedules.submit("films-abc123", job_from_toml(TEXT))
    return schedules


def runs(schedules):
    return [(run.job_id, run.state.value) for run in schedules.status("films-abc123").runs]


def test_a_schedule_is_a_record_a_secret_and_a_cron_job(namespace, schedules):
    assert namespace.kinds() == ["ConfigMap", "CronJob", "Secret"]
    secret = namespace.objects["Secret", "films-abc123"].raw
    assert secret["stringData"] == {"A_KEY": "hush"}
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid-of-films-abc123"
    assert "hush" not in json.dumps([found.raw for found in namespace.objects.values()][:1])
    status = schedules.status("films-abc123")
    assert (status.state, status.cron, status.runs) == ("Scheduled", "0 3 * * *", [])
    assert Jobs("n").all() == []


def test_a_run_is_an_ordinary_job(namespace, schedules):
    run_id = schedules.launch("films-abc123", NIGHT)
    assert run_id == "films-2611280300-abc123"
    (job,) = Jobs("n").all()
    assert (job.job_id, job.state, job.attempt) == (run_id, "Waiting", 1)
    assert namespace.kinds().count("Secret") == 1
    (dask_job,) = (found for key, found in namespace.objects.items() if key[0] == "DaskJob")
    (container,) = dask_job.raw["spec"]["job"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "films-abc123"}}]
    Jobs("n").stop(run_id)
    assert runs(schedules) == [(run_id, "Stopped")]


def test_one_run_at_a_time(namespace, schedules):
    first = schedules.launch("films-abc123", NIGHT)
    for state in ({"waiting": {}}, {"running": {}}):
        namespace.runner(first, state)
        assert schedules.launch("films-abc123", NIGHT + timedelta(days=1)) is None
    namespace.run_ends(first)
    second = schedules.launch("films-abc123", NIGHT + timedelta(days=2))
    assert runs(schedules) == [(second, "Waiting"), (first, "Succeeded")]


def test_a_failed_or_lost_run_does_not_block_the_next(namespace, schedules):
    first = schedules.launch("films-abc123", NIGHT)
    namespace.run_ends(first, code=1)
    second = schedules.launch("films-abc123", NIGHT + timedelta(days=1))
    assert runs(schedules) == [(second, "Waiting"), (first, "Failed")]
    namespace.runner(second, {"running": {}})
    pod = namespace.objects["Pod", f"{second}-runner"].raw
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    third = schedules.launch("films-abc123", NIGHT + timedelta(days=2))
    assert runs(schedules) == [(third, "Waiting"), (second, "Lost")]


def test_a_start_that_was_interrupted_is_completed_and_not_doubled(namespace, schedules):
    run_id = schedules.launch("films-abc123", NIGHT)
    del namespace.objects["DaskJob", run_id]
    assert schedules.launch("films-abc123", NIGHT + timedelta(seconds=20)) == run_id
    assert len(Jobs("n").all()) == 1
    namespace.run_ends(run_id)
    assert schedules.launch("films-abc123", NIGHT + timedelta(seconds=40)) is None


def test_records_of_old_runs_are_removed(namespace, schedules):
    started = []
    for day in range(5):
        started.append(schedules.launch("films-abc123", NIGHT + timedelta(days=day)))
        assert [run for run, _ in runs(schedules)] == started[::-1][:2]
        namespace.run_ends(started[-1])
    assert {name for kind, name in namespace.objects if kind == "DaskJob"} == set(started[-2:])
    assert ("ConfigMap", "films-abc123") in namespace.objects


def test_stopped_and_resumed(namespace, schedules):
    run_id = schedules.launch("films-abc123", NIGHT)
    schedules.stop("films-abc123")
    assert schedules.status("films-abc123").state == "Stopped"
    assert runs(schedules) == [(run_id, "Stopped")]
    assert namespace.objects["CronJob", "films-abc123"].raw["spec"]["suspend"] is True
    schedules.resume("films-abc123")
    assert schedules.status("films-abc123").state == "Scheduled"
    with pytest.raises(InputError, match="is not stopped; there is nothing to resume"):
        schedules.resume("films-abc123")


def test_deleted_with_its_runs(namespace, schedules):
    Jobs("n").submit("other-1", job_from_toml(TEXT.replace("schedule =", "#")))
    schedules.launch("films-abc123", NIGHT)
    schedules.delete("films-abc123")
    left = {name for _, name in namespace.objects}
    # Kubernetes deletes the Secret with the record that owns it.
    assert {name for name in left if name.startswith("films")} == {"films-abc123"}
    assert [kind for kind, name in namespace.objects if name == "films-abc123"] == ["Secret"]
    assert [job.job_id for job in Jobs("n").all()] == ["other-1"]
    for call in (schedules.launch, schedules.stop, schedules.resume, schedules.delete):
        with pytest.raises(InputError, match="there is no schedule 'films-abc123' in namespace n"):
            call("films-abc123")


@pytest.mark.parametrize("kind", ["Secret", "CronJob"])
def test_of_a_schedule_that_is_refused_nothing_is_left(kind, monkeypatch):
    monkeypatch.setenv("HERE", "hush")
    namespace = Namespace(monkeypatch, refuses=kind)
    with pytest.raises(InputError, match="Kubernetes refused the request"):
        Schedules("n").submit("films-abc123", job_from_toml(TEXT))
    assert [key for key in namespace.objects if key[0] != "Secret"] == []


def test_a_secret_that_is_missing(namespace, monkeypatch):
    monkeypatch.delenv("HERE")
    with pytest.raises(InputError, match="HERE, which is not set here"):
        Schedules("n").submit("films-abc123", job_from_toml(TEXT))
    assert namespace.objects == {}


def test_a_start_uses_exactly_the_rights_of_its_account(namespace, schedules):
    namespace.verbs.clear()
    for day in range(4):
        run_id = schedules.launch("films-abc123", NIGHT + timedelta(days=day))
        namespace.run_ends(run_id)
    del namespace.objects["DaskJob", run_id]
    namespace.pods_end(run_id)
    assert schedules.launch("films-abc123", NIGHT + timedelta(days=3)) == run_id
    # The operator creates the cluster of a DaskJob; it may exist when a run is removed.
    namespace.used("delete", "DaskCluster")
    (role,) = (
        found for found in yaml.safe_load_all(ACCOUNT.read_text()) if found["kind"] == "Role"
    )
    rights = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert namespace.verbs == rights


@pytest.fixture
def command(namespace, monkeypatch, capsys, tmp_path):
    """Run a command on the namespace; return exit code, output and errors."""
    path = tmp_path / "films.toml"
    path.write_text(TEXT)

    def run(*arguments):
        code = 0
        try:
            main([str(path) if argument == "JOB" else argument for argument in arguments])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_commands(namespace, command):
    code, out, err = command("submit", "JOB")
    assert (code, err) == (0, "")
    schedule_id = out.strip()
    assert schedule_id.startswith("films-")
    assert command("launch", schedule_id)[0] == 0
    (run,) = Jobs("n").all()
    code, out, _ = command("list")
    listed = [line.split()[:2] for line in out.splitlines()]
    assert listed == [[schedule_id, "Scheduled"], [run.job_id, "Waiting"]]
    assert [len(each) > 3 for each in json.loads(command("list", "--json")[1])] == [True, True]
    assert "another one is active" in command("launch", schedule_id)[1]
    assert json.loads(command("launch", schedule_id, "--json")[1])["job_id"] is None
    code, out, _ = command("status", schedule_id)
    assert out.splitlines()[0] == f"{schedule_id}  Scheduled  0 3 * * *"
    assert out.splitlines()[1].split()[:2] == [run.job_id, "Waiting"]
    assert (
        json.loads(command("status", schedule_id, "--json")[1])["runs"][0]["job_id"] == run.job_id
    )
    assert command("status", run.job_id)[1].startswith(f"{run.job_id}  Waiting")
    assert command("logs", schedule_id)[0] == 0
    assert command("stop", schedule_id)[1].startswith(f"{schedule_id}  Stopped")
    assert command("resume", schedule_id)[1].startswith(f"{schedule_id}  Scheduled")
    assert command("delete", schedule_id)[:2] == (0, f"{schedule_id}  deleted\n")
    assert command("list")[1] == ""


def test_a_schedule_has_no_end_to_wait_for(namespace, command):
    for options in ([], ["--json"]):
        code, out, err = command("submit", "JOB", "--wait", *options)
        assert (code, out) == (2, "")
        assert err.startswith("dask-als: ")
        assert "leave out --wait" in err
    assert namespace.objects == {}
    schedule_id = command("submit", "JOB")[1].strip()
    code, _, err = command("resume", schedule_id, "--wait")
    assert (code, "leave out --wait" in err) == (2, True)
    code, _, err = command("logs", schedule_id)
    assert (code, "has not started a run yet" in err) == (2, True)


def test_a_dry_run_prints_what_would_be_created(namespace, command):
    _, out, _ = command("submit", "JOB", "--dry-run")
    found = list(yaml.safe_load_all(out))
    assert [each["kind"] for each in found] == ["ConfigMap", "Secret", "CronJob"]
    assert "hush" not in out
    assert namespace.objects == {}
