"""An in-memory stand-in for the objects of one Kubernetes namespace, and the verbs used on them."""

import copy
import itertools

from dask_als.errors import InputError
from dask_als.jobs import kubernetes, records, schedules

RESOURCES = {
    "ConfigMap": ("", "configmaps"),
    "CronJob": ("batch", "cronjobs"),
    "DaskCluster": ("kubernetes.dask.org", "daskclusters"),
    "DaskJob": ("kubernetes.dask.org", "daskjobs"),
    "NetworkPolicy": ("networking.k8s.io", "networkpolicies"),
    "Pod": ("", "pods"),
    "Secret": ("", "secrets"),
}


class Raw(dict):
    def to_dict(self):
        return copy.deepcopy(dict(self))


class Found:
    """An object, with those methods of kr8s that are used."""

    def __init__(self, namespace, manifest):
        self._namespace = namespace
        self.raw = Raw(manifest)
        self.name = manifest["metadata"]["name"]
        self.kind = manifest["kind"]

    def annotate(self, notes):
        self._namespace.used("patch", self.kind)
        known = self.raw["metadata"].setdefault("annotations", {})
        known.update(notes)
        self.raw["metadata"]["annotations"] = {k: v for k, v in known.items() if v is not None}

    def patch(self, change):
        self._namespace.used("patch", self.kind)
        self.raw["spec"].update(change["spec"])

    def delete(self):
        self._namespace.used("delete", self.kind)
        del self._namespace.objects[self.kind, self.name]
        if self.kind == "DaskJob":
            self._namespace.pods_end(self.raw["metadata"]["labels"]["dask-als/job"])


class Namespace:
    """The objects of a namespace by kind and name; it refuses to create one kind if asked to."""

    def __init__(self, monkeypatch, refuses=None):
        self.objects, self.verbs, self.refuses = {}, set(), refuses
        self._times = itertools.count()
        monkeypatch.setattr(records, "api_of", lambda namespace: self)
        for module in (kubernetes, records):
            monkeypatch.setattr(module, "create", self.create)
        for module in (kubernetes, schedules):
            monkeypatch.setattr(module, "delete", lambda found: found.delete())
        monkeypatch.setattr(schedules, "cron_job_class", lambda api: schedules_kind("CronJob"))

    def used(self, verb, kind):
        self.verbs.add((*RESOURCES[kind], verb))

    def create(self, manifest, api):
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        self.used("create", kind)
        if kind == self.refuses:
            raise InputError("Kubernetes refused the request")
        manifest = copy.deepcopy(manifest)
        at = f"2026-01-01T00:{next(self._times):02}:00Z"
        manifest["metadata"] |= {"creationTimestamp": at, "uid": f"uid-of-{name}"}
        self.objects.setdefault((kind, name), Found(self, manifest))

    def get(self, kind, label_selector):
        self.used("list", kind.__name__)
        is_wanted = selected_by(label_selector)
        return [
            found
            for (its_kind, _), found in self.objects.items()
            if its_kind == kind.__name__ and is_wanted(found.raw["metadata"].get("labels", {}))
        ]

    def kinds(self):
        return sorted(kind for kind, _ in self.objects)

    def run_ends(self, job_id, code=0):
        """Give the newest attempt of a job a runner pod that has ended."""
        self.runner(job_id, {"terminated": {"exitCode": code, "message": '{"steps": []}'}})

    def runner(self, job_id, state):
        record = self.objects["ConfigMap", job_id].raw["metadata"]
        attempt = record["annotations"]["dask-als/attempt"]
        labels = {
            "app.kubernetes.io/name": "dask-als",
            "dask-als/job": job_id,
            "dask-als/attempt": attempt,
            "dask.org/component": "job-runner",
        }
        pod = {
            "kind": "Pod",
            "metadata": {"name": f"{job_id}-runner", "labels": labels},
            "status": {"containerStatuses": [{"state": state}]},
        }
        self.objects["Pod", f"{job_id}-runner"] = Found(self, pod)

    def pods_end(self, job_id):
        """Delete the pods of a job, as Kubernetes does with the DaskJob that owns them."""
        for key, found in list(self.objects.items()):
            if key[0] == "Pod" and found.raw["metadata"]["labels"]["dask-als/job"] == job_id:
                del self.objects[key]


def schedules_kind(name):
    return type(name, (), {"version": "batch/v1"})


def selected_by(selector):
    """Return the predicate of a label selector."""

    def is_wanted(labels):
        for term in selector.split(","):
            key, equals, value = term.partition("=")
            if term.startswith("!"):
                if term[1:] in labels:
                    return False
            elif key not in labels or (equals and labels[key] != value):
                return False
        return True

    return is_wanted
