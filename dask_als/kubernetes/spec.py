"""Kubernetes manifests as plain dictionaries, readable by people and by tests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from dask_als.settings.cluster_size import KubernetesSize

Manifest = dict[str, Any]

JOB_LABEL = "dask-als/job"
SCHEDULE_LABEL = "dask-als/schedule"
ATTEMPT_LABEL = "dask-als/attempt"
STOPPED = "dask-als/stopped"
RESULT_FILE = "/dev/termination-log"
"""Kubernetes copies up to 4 KiB of this file into the status of the pod."""

_API = "kubernetes.dask.org/v1"
_SCHEDULER_PORTS = {"tcp-comm": 8786, "http-dashboard": 8787}
_WORKER_PORTS = {"http-dashboard": 8788}
_USER = 10001
SCHEDULE_ACCOUNT = "dask-als-schedule"
"""The service account that starts the runs of schedules."""


def new_job_id(name: str) -> str:
    """Return a unique id for a job: its name and a random part."""
    return f"{name[:30].rstrip('-')}-{uuid.uuid4().hex[:6]}"


def new_run_id(name: str, schedule_id: str, now: datetime) -> str:
    """Return the id of a run of a schedule; two runs in one minute have the same id.

    It has the name of the job, the minute (UTC) and the random part of the id of the schedule.
    """
    random = schedule_id.rpartition("-")[2]
    return f"{name[:19].rstrip('-')}-{now.astimezone(UTC):%y%m%d%H%M}-{random}"


def attempt_name(job_id: str, attempt: int) -> str:
    """Return the unique DaskJob name of an attempt; names are not reused (dask-kubernetes#829)."""
    return job_id if attempt == 1 else f"{job_id}-{attempt}"


def secret(
    name: str, namespace: str, values: Mapping[str, str], owner: Manifest | None = None
) -> Manifest:
    """Return the Secret with the credentials of a job, or of a cluster without a job.

    Parameters
    ----------
    values : mapping of str to str
        Environment variables of the pods by name.
    owner : dict, optional
        The ConfigMap of the job as Kubernetes returns it. Kubernetes deletes the Secret with it.
    """
    labels = {JOB_LABEL: name} if owner else {}
    metadata = _metadata(name, namespace, labels)
    if owner:
        reference = {key: owner[key] for key in ("apiVersion", "kind")}
        reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
        metadata["ownerReferences"] = [reference]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "stringData": dict(values),
    }


def record(job_id: str, job_file: str, namespace: str, schedule_id: str | None = None) -> Manifest:
    """Return the ConfigMap that records a job from `submit` to `delete`, at attempt 1.

    Parameters
    ----------
    job_file : str
        The job as TOML, without secret values.
    schedule_id : str, optional
        The schedule that the job is a run of.
    """
    of_schedule = {} if schedule_id is None else {SCHEDULE_LABEL: schedule_id}
    metadata = _metadata(job_id, namespace, {JOB_LABEL: job_id, **of_schedule})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "annotations": {ATTEMPT_LABEL: "1"}},
        "data": {"job.toml": job_file},
    }


def schedule_record(schedule_id: str, job_file: str, namespace: str) -> Manifest:
    """Return the ConfigMap that records a schedule from `submit` to `delete`.

    Parameters
    ----------
    job_file : str
        The job as TOML, without secret values.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(schedule_id, namespace, {SCHEDULE_LABEL: schedule_id}),
        "data": {"job.toml": job_file},
    }


def cron_job(
    schedule_id: str, cron: str, size: KubernetesSize, *, api_version: str = "batch/v1"
) -> Manifest:
    """Return the CronJob that starts the runs of a schedule.

    Its pods only create the objects of a run and end. `dask-als launch` starts no run while
    another one of the schedule is active.

    Parameters
    ----------
    api_version : str, optional
        Kubernetes before 1.21 has only ``batch/v1beta1``.
    """
    pod = _launcher(schedule_id, size)
    labels = {SCHEDULE_LABEL: schedule_id}
    return {
        "apiVersion": api_version,
        "kind": "CronJob",
        "metadata": _metadata(schedule_id, size.namespace, labels),
        "spec": {
            "schedule": cron,
            "concurrencyPolicy": "Forbid",
            # Without a deadline, a controller that was down for a hundred runs starts no more.
            "startingDeadlineSeconds": 600,
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "metadata": {"labels": labels},
                "spec": {
                    "backoffLimit": 2,
                    "activeDeadlineSeconds": 600,
                    "template": {"metadata": {"labels": labels}, "spec": pod},
                },
            },
        },
    }


def attempt(job_id: str, number: int, size: KubernetesSize) -> list[Manifest]:
    """Return the objects of one attempt of a job: network policies and the DaskJob.

    Parameters
    ----------
    job_id : str
    number : int
        Number of the attempt, from 1.
    size : KubernetesSize
    """
    name = attempt_name(job_id, number)
    labels = {JOB_LABEL: job_id, ATTEMPT_LABEL: str(number)}
    job = {
        "apiVersion": _API,
        "kind": "DaskJob",
        "metadata": _metadata(name, size.namespace, labels),
        "spec": {
            # With the default of the operator, OnFailure, a failed runner restarts forever.
            "job": {"spec": {"restartPolicy": "Never", **_runner(job_id, size)}},
            "cluster": {"spec": _cluster_spec(name, size)},
        },
    }
    return [*network_policies(name, size, labels), job]


def cluster(name: str, size: KubernetesSize) -> list[Manifest]:
    """Return network policies and a DaskCluster without a job, for a client outside Kubernetes.

    The client connects through a forwarded port, which network policies do not restrict.
    """
    dask_cluster = {
        "apiVersion": _API,
        "kind": "DaskCluster",
        "metadata": _metadata(name, size.namespace, {}),
        "spec": _cluster_spec(name, size),
    }
    return [*network_policies(name, size, {}), dask_cluster]


def network_policies(name: str, size: KubernetesSize, labels: dict[str, str]) -> list[Manifest]:
    """Return policies that admit only workers and runner of a cluster to its pods."""

    def pods(*components: str) -> Manifest:
        return {
            "matchLabels": {"dask.org/cluster-name": name},
            "matchExpressions": [
                {"key": "dask.org/component", "operator": "In", "values": list(components)}
            ],
        }

    def policy(target: str, *sources: str) -> Manifest:
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": _metadata(f"{name}-{target}", size.namespace, labels),
            "spec": {
                "podSelector": pods(target),
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": pods(*sources)}]}] if sources else [],
            },
        }

    return [
        policy("scheduler", "worker", "job-runner"),
        policy("worker", "scheduler", "worker"),
        policy("job-runner"),
    ]


def _metadata(name: str, namespace: str, labels: dict[str, str]) -> Manifest:
    return {
        "name": name,
        "namespace": namespace,
        "labels": {"app.kubernetes.io/name": "dask-als", **labels},
    }


def _cluster_spec(name: str, size: KubernetesSize) -> Manifest:
    return {
        "scheduler": {"spec": _scheduler(size), "service": _service(name)},
        "worker": {"replicas": size.workers, "spec": _worker(size)},
    }


def _runner(job_id: str, size: KubernetesSize) -> Manifest:
    # Standard output is the result, standard error the log.
    run = f'exec dask-als run "$@" --json > {RESULT_FILE}'
    options = ["--cluster", "$(DASK_SCHEDULER_ADDRESS)", "--timeout", "300s", "--run-id", job_id]
    container = _container("runner", size, ["sh", "-c", run, "run", "/job/job.toml", *options])
    container["terminationMessagePath"] = RESULT_FILE
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"
    container["resources"] = _resources("100m", "1", "256Mi", "2Gi")
    container["volumeMounts"].append({"name": "job", "mountPath": "/job", "readOnly": True})
    pod = _pod(container, size)
    pod["volumes"].append({"name": "job", "configMap": {"name": job_id}})
    pod["terminationGracePeriodSeconds"] = 5
    return pod


def _launcher(schedule_id: str, size: KubernetesSize) -> Manifest:
    command = ["dask-als", "launch", schedule_id, "--namespace", size.namespace]
    container = _container("launcher", replace(size, volume_claim="", secret_names=()), command)
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"
    container["resources"] = _resources("100m", "1", "128Mi", "512Mi")
    pod = _pod(container, replace(size, volume_claim=""))
    pod["serviceAccountName"] = SCHEDULE_ACCOUNT
    pod["automountServiceAccountToken"] = True
    pod["restartPolicy"] = "Never"
    return pod


def _scheduler(size: KubernetesSize) -> Manifest:
    container = _container("scheduler", size, ["dask", "scheduler"])
    container["ports"] = _ports(_SCHEDULER_PORTS)
    container["resources"] = _resources("100m", "1", "256Mi", "2Gi")
    container["readinessProbe"] = _health(seconds=2, failures=3)
    container["livenessProbe"] = _health(seconds=20, failures=6)
    return _pod(container, size)


def _worker(size: KubernetesSize) -> Manifest:
    threads = str(size.threads)
    command = ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--nthreads", threads]
    command += ["--memory-limit", size.memory]
    command += ["--dashboard-address", f":{_WORKER_PORTS['http-dashboard']}"]
    container = _container("worker", size, command)
    container["ports"] = _ports(_WORKER_PORTS)
    container["resources"] = _resources(size.cpu or threads, threads, size.memory, size.memory)
    # A busy worker answers late: replace it only after two minutes without an answer.
    container["livenessProbe"] = _health(seconds=20, failures=6)
    return _pod(container, size)


def _pod(container: Manifest, size: KubernetesSize) -> Manifest:
    """Return a pod spec that conforms to the pod security level "restricted"."""
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}]
    if size.volume_claim:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": size.volume_claim}})
    return {
        "serviceAccountName": size.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": dict(size.node_selectors),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }


def _container(name: str, size: KubernetesSize, command: list[str]) -> Manifest:
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    if size.volume_claim:
        mounts.append({"name": "data", "mountPath": size.volume_path})
    return {
        "name": name,
        "image": size.image,
        "imagePullPolicy": "IfNotPresent",
        "args": command,
        "workingDir": size.volume_path if size.volume_claim else "/tmp",
        "env": [{"name": key, "value": value} for key, value in size.environment.items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in size.secret_names],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }


def _service(name: str) -> Manifest:
    return {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [
            {"name": port, "port": number, "targetPort": port, "protocol": "TCP"}
            for port, number in _SCHEDULER_PORTS.items()
        ],
    }


def _ports(ports: dict[str, int]) -> list[Manifest]:
    return [
        {"name": port, "containerPort": number, "protocol": "TCP"} for port, number in ports.items()
    ]


def _resources(cpu: str, most_cpu: str, memory: str, most_memory: str) -> Manifest:
    return {
        "requests": {"cpu": cpu, "memory": memory},
        "limits": {"cpu": most_cpu, "memory": most_memory},
    }


def _health(*, seconds: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": "/health", "port": "http-dashboard"},
        "periodSeconds": seconds,
        "failureThreshold": failures,
        "timeoutSeconds": 10,
    }
