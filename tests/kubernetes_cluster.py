"""The Kubernetes cluster that KUBECONFIG names: a namespace of its own, and a volume."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import kr8s
import pyarrow.parquet as pq
import yaml
from kr8s.objects import Namespace, PersistentVolume, object_from_spec

BASE = Path(__file__).parents[1] / "k8s" / "base"
RATINGS = Path(__file__).parents[2] / "shared" / "data" / "ml-latest-small"
IMAGE = os.environ.get("DASK_ALS_IMAGE", "dask-als:test")
NAMESPACE = "dask-als-test"
SETTINGS = {
    "rank": 5,
    "epochs": 100,
    "residual-precision": 1,
    "bias-regularization": 1e-3,
    "factor-regularization": 5e-2,
    "dtype": "float64",
}
NOTEBOOK = ["--no-center", *(f"--{name}={value}" for name, value in SETTINGS.items())]


def why_not():
    """Return why tests on a real cluster cannot run, or None."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    if not RATINGS.exists():
        return f"{RATINGS} is not there"
    return None


def create(manifest):
    """Create an object and return it."""
    found = object_from_spec(manifest, allow_unknown_type=True)
    found.create()
    return found


def set_up(volume):
    """Make the namespace, with a volume that is a directory of this machine, the node."""
    volume.chmod(0o777)
    wipe()
    for name in ("namespace", "service-accounts", "network-policy", "volume"):
        text = (BASE / f"{name}.yaml").read_text()
        text = text.replace("namespace: dask-als\n", f"namespace: {NAMESPACE}\n")
        for manifest in yaml.safe_load_all(text):
            if manifest["kind"] == "Namespace":
                manifest["metadata"]["name"] = NAMESPACE
            create(manifest)
    create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": NAMESPACE},
            "spec": {
                "capacity": {"storage": "20Gi"},
                "accessModes": ["ReadWriteMany"],
                "hostPath": {"path": str(volume)},
                "claimRef": {"namespace": NAMESPACE, "name": "dask-als"},
            },
        }
    )


def wipe():
    """Take namespace and volume away, and wait for it."""
    for kind in (Namespace, PersistentVolume):
        found = kind({"metadata": {"name": NAMESPACE}})
        with suppress(kr8s.NotFoundError):
            found.delete()
        wait_for(lambda found=found: not found.exists(), seconds=120)


def there(kind, **labels):
    """Return the objects of a kind in the namespace."""
    return list(kr8s.get(kind, namespace=NAMESPACE, label_selector=labels))


def wait_for(true, *, seconds):
    """Wait until something is true; fail if that takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.5)
    return value


def dask_als(*arguments, **options):
    """Start the command, with files that the pods' user can change."""
    return subprocess.Popen(
        [sys.executable, "-m", "dask_als", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0,
        **options,
    )


def ended(process, *, seconds=300):
    """Return exit code and output of a command that has ended."""
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def numbers(model):
    """Return what a model is made of, as read by pyarrow alone."""
    return [pq.read_table(model / side).to_pylist() for side in ("users", "items")]


def put_ratings(directory):
    """Copy the ratings to the volume."""
    shutil.copytree(RATINGS, directory)
    directory.chmod(0o777)
