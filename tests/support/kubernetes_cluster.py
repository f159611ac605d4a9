"""The Kubernetes cluster that KUBECONFIG names, by kubectl: a namespace of its own, a volume."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import yaml

REPOSITORY = Path(__file__).parents[2]
BASE = REPOSITORY / "k8s" / "base"
RATINGS = REPOSITORY.parent / "shared" / "data" / "ml-latest-small"
IMAGE = os.environ.get("DASK_ALS_IMAGE", "dask-als:test")
NAMESPACE = "dask-als-test"


def why_not():
    """Return why tests on a real cluster cannot run, or None."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    if not shutil.which("kubectl"):
        return "there is no kubectl"
    if not RATINGS.exists():
        return f"{RATINGS} is not there"
    return None


def kubectl(*arguments, text=None):
    """Run kubectl in the namespace and return what it prints."""
    command = ["kubectl", f"--namespace={NAMESPACE}", *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


def create(*manifests):
    """Create objects."""
    many = {"apiVersion": "v1", "kind": "List", "items": manifests}
    kubectl("create", "--filename=-", text=json.dumps(many))


def there(kind, **labels):
    """Return the objects of a kind in the namespace: all, or those of a component or a job."""
    keys = {"component": "dask.org/component", "job": "dask-als/job"}
    selector = ",".join(f"{keys[name]}={value}" for name, value in labels.items())
    return json.loads(kubectl("get", kind, "--output=json", f"--selector={selector}"))["items"]


def name_of(found):
    """Return an object's name."""
    return found["metadata"]["name"]


def is_ready(pod):
    """Whether a pod is ready."""
    conditions = {found["type"]: found["status"] for found in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


SOLVED = """
import json
from distributed import Client

def solved(dask_worker):
    # The keys are ("execute", span, start of the task's key, what took it, unit).
    return sum(
        value
        for key, value in dask_worker.digests_total.items()
        if isinstance(key, tuple) and key[0] == "execute" and key[2].startswith("solve")
    )

with Client("tcp://127.0.0.1:8786", timeout="60s") as client:
    print(json.dumps(client.run(solved)))
"""


def solving_workers():
    """Return how many workers of the one cluster that is there have solved something."""
    (scheduler,) = there("pods", component="scheduler")
    seconds = json.loads(kubectl("exec", name_of(scheduler), "--", "python", "-c", SOLVED))
    return sum(value > 0 for value in seconds.values())


LISTENS = 8000
_KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


def stranger(name):
    """Return a pod that is no part of a job, and listens."""
    container = {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["python", "-m", "http.server", str(LISTENS)],
        "readinessProbe": {"tcpSocket": {"port": LISTENS}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 4321,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    metadata = {"name": name, "labels": {"stranger": "yes"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}


def strangers():
    """Return the pods of strangers."""
    return [pod for pod in there("pods") if "stranger" in pod["metadata"].get("labels", {})]


def reaches(pod, other, port):
    """Whether a pod can connect to a port of another one."""
    (address,) = (each["status"]["podIP"] for each in there("pods") if name_of(each) == other)
    knock = ["kubectl", f"--namespace={NAMESPACE}", "exec", pod, "--", "python", "-c", _KNOCK]
    return subprocess.run([*knock, address, str(port)], capture_output=True).returncode == 0


def version():
    """Return the server's version."""
    found = json.loads(kubectl("version", "--output=json"))["serverVersion"]
    return int(found["major"]), int(found["minor"].rstrip("+"))


def own_address():
    """Return the address by which pods reach this process: the one towards the API server."""
    server = yaml.safe_load(kubectl("config", "view", "--minify"))["clusters"][0]["cluster"][
        "server"
    ]
    url = urlsplit(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((url.hostname, url.port or 443))
        return probe.getsockname()[0]


def set_up(volume):
    """Make the namespace, with a volume that is a directory of this machine, the node."""
    volume.chmod(0o777)
    wipe()
    manifests = []
    for name in ("namespace", "service-accounts", "schedule-account", "network-policy", "volume"):
        text = (BASE / f"{name}.yaml").read_text()
        text = text.replace("namespace: dask-als\n", f"namespace: {NAMESPACE}\n")
        manifests += yaml.safe_load_all(text)
    manifests[0]["metadata"]["name"] = NAMESPACE
    persistent = {
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
    create(*manifests, persistent)


def wipe():
    """Take namespace and volume away, and wait for it."""
    kubectl("delete", f"namespace/{NAMESPACE}", "--ignore-not-found", "--timeout=170s")
    kubectl("delete", f"persistentvolume/{NAMESPACE}", "--ignore-not-found", "--timeout=60s")


def wait_for(true, *, seconds):
    """Wait until something is true; fail if that takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.5)
    return value


def dask_als(*arguments, umask=0):
    """Start the command; by default the pods' user can change its files."""
    return subprocess.Popen(
        [sys.executable, "-m", "dask_als", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=umask,
    )


def ended(process, *, seconds=600):
    """Return exit code and output of a command that has ended."""
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def done(*arguments):
    """Run the command, which must succeed, and return its output."""
    code, output = ended(dask_als(*arguments))
    assert code == 0, output
    return output


def numbers(model):
    """Return what a model is made of, as read by pyarrow alone."""
    return [
        [row for part in sorted(model.glob(f"{side}/*")) for row in pq.read_table(part).to_pylist()]
        for side in ("users", "items")
    ]
