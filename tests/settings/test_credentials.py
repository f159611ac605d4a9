"""Values of secrets: where they come from, and that no message has one."""

import pytest

from dask_als.errors import InputError
from dask_als.jobs.job_file import job_from_toml
from dask_als.settings.credentials import resolved

JOB = 'name = "a"\noutput = "o"\nsource.path = "r.csv"\nsteps = ["prepare", "train"]\n'


def test_values_come_from_the_file_or_from_the_environment():
    secrets = {"A": "as it is", "B": "${HERE}", "C": "costs ${HERE}", "D": "$HERE"}
    found = resolved(secrets, {"HERE": "from here"})
    assert found == secrets | {"B": "from here"}


def test_a_variable_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"secret B refers to .* variable NOWHERE, which is not"):
        resolved({"A": "hush", "B": "${NOWHERE}"}, {})


@pytest.mark.parametrize(
    "text",
    [
        "[cluster.kubernetes.secrets]\nA = 77077",
        "[cluster.kubernetes.secrets]\nA = [77077]",
        "[cluster.kubernetes.secrets.A]\nB = '77077'",
        "[[cluster.kubernetes.secrets]]\nA = '77077'",
        "[[cluster.kubernetes]]\nsecrets = {A = '77077'}",
        "[[cluster]]\nkubernetes = {secrets = {A = '77077'}}",
        "[cluster.kubernetes]\nsecrets = '77077'",
        "[cluster.kubernetes]\nsecret = {A = '77077'}",
        "[cluster.kubernetes.secrets]\n'A B' = '77077'",
        "[cluster.kubernetes.secrets]\nA = '77077",
        "[cluster.kubernetes.secrets]\nA = 77077x",
    ],
)
def test_no_mistake_in_a_job_file_shows_a_secret(text):
    with pytest.raises(InputError) as raised:
        job_from_toml(JOB + text)
    assert "77077" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        "cluster.kubernetes.secrets=77077",
        "cluster.kubernetes.secrets.A=77077",
        "cluster.kubernetes.secrets.A.B=77077",
        "cluster.kubernetes.environment.A_KEY=hush77077",
        "=77077",
    ],
)
def test_no_mistake_in_a_change_shows_a_secret(change):
    text = JOB + "[cluster.kubernetes]\nsecrets.A = 'hush'\n"
    with pytest.raises(InputError) as raised:
        job_from_toml(text, [change])
    assert "77077" not in str(raised.value)


def test_secrets_of_a_job_file():
    text = JOB + "[cluster.kubernetes]\nsecret_names = ['aws']\n[cluster.kubernetes.secrets]\n"
    job = job_from_toml(text + "A_KEY = '${A_KEY}'\n", ["cluster.kubernetes.secrets.B_KEY=b"])
    size = job.cluster.kubernetes
    assert (size.secret_names, size.secrets) == (("aws",), {"A_KEY": "${A_KEY}", "B_KEY": "b"})
