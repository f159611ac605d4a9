import pytest

from dask_als.core.wording import in_python, option_words, python_words
from dask_als.errors import InputError

EXAMPLES = {
    "name yours with --user-col": "name yours with columns=Columns(user=...)",
    "prepare it with --test-fraction 0.1": (
        "prepare it with prepare_settings=PrepareSettings(test_fraction=0.1)"
    ),
    "train one with --method gibbs": "train one with method='gibbs'",
    "train one with --method gibbs and --keep-samples": (
        "train one with method='gibbs' and keep_samples=True"
    ),
    "give --overwrite; or not": "give overwrite=True; or not",
    "use --duplicates last, mean or sum": (
        "use prepare_settings=PrepareSettings(duplicates=...) last, mean or sum"
    ),
    "name it with --dataset, or use --seen": "name it with dataset=..., or use seen=True",
    "of 5 -- or more": "of 5 -- or more",
}


@pytest.mark.parametrize("message", EXAMPLES)
def test_options_become_parameters(message):
    assert in_python(message) == EXAMPLES[message]


def fail(names):
    with python_words(names):
        raise InputError("/tmp/x1/ratings have no --titles")


def test_temporary_files_have_names():
    with pytest.raises(InputError, match=r"^the ratings have no titles=\.\.\.$"):
        fail({"/tmp/x1/ratings": "the ratings"})


def test_a_command_keeps_its_options():
    with option_words(), pytest.raises(InputError, match=r"^/tmp/x1/ratings have no --titles$"):
        fail({"/tmp/x1/ratings": "the ratings"})
