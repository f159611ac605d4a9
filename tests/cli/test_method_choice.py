import json
import re

import pytest
from click.testing import CliRunner
from support.data import generated, write_csv

from dask_als.cli.main import cli
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.model.manifest import read_manifest
from dask_als.settings.training import TrainSettings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("chosen")
    source = write_csv(directory / "r.csv", generated(30, 20, 300, seed=2))
    return prepare(str(source), str(directory / "d"), SerialExecutor()).path


def invoke(*arguments):
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            [],
            "gibbs, as no option asks for als: 55 epochs of rank 32 "
            "(with --method als, 15 of rank 64)",
        ),
        (["--seed", "3", "--implicit-attributes", "auto", "--dtype", "float64"], "gibbs, as no "),
        (["--no-center", "--first", "items", "--feedback", "explicit"], "gibbs, as no option "),
        (["--samples", "3"], "gibbs, as --samples is given: 18 epochs of rank 32 "),
        (["--rank", "8", "--keep-samples"], "gibbs, as --keep-samples is given: 55 epochs "),
        (["--rank", "64"], "als, as --rank is given: 15 epochs of rank 64\n"),
        (["--epochs", "15"], "als, as --epochs is given: 15 epochs of rank 64\n"),
        # Values of the defaults, but given.
        (["--factor-regularization", "12"], "als, as --factor-regularization is given: 15 "),
        (["--item-bias-regularization", "3"], "als, as --item-bias-regularization is given: "),
        (["--patience", "2"], "als, as --patience is given: "),
        (["--stop-when-flat", "1e-4"], "als, as --stop-when-flat is given: "),
        (["--feedback", "implicit"], "als, as feedback is implicit: 15 epochs of rank 64\n"),
    ],
)
def test_what_is_chosen_and_why(dataset, options, said):
    assert f"method   {said}" in invoke("plan", dataset, *options)


@pytest.mark.parametrize("method", ["als", "gibbs"])
def test_a_method_that_is_given_is_taken_without_a_word(dataset, method):
    assert "method " not in invoke("plan", dataset, "--method", method, "--rank", "8")


def test_train_without_options_says_its_choice_and_its_cost(dataset, tmp_path):
    said = invoke("train", dataset, str(tmp_path / "m"), "--cluster", "serial")
    first, *_, cost, _, _ = said.splitlines()
    assert first.startswith("method   gibbs, as no option asks for als: 55 epochs of rank 32 ")
    assert re.fullmatch(r"cost     55 epochs in \d+\.\d s", cost)
    assert read_manifest(str(tmp_path / "m")).settings == TrainSettings(method="gibbs")


def test_the_defaults_of_als_are_those_of_the_settings(dataset, tmp_path):
    model = str(tmp_path / "m")
    said = invoke("train", dataset, model, "--method", "als", "--cluster", "serial", "--json")
    assert "method " not in said
    assert read_manifest(model).settings == TrainSettings()


def test_a_training_that_starts_from_a_model_goes_on_with_als(dataset, tmp_path):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    invoke("train", dataset, first, "--method", "als", "--cluster", "serial")
    watched = ["--cluster", "serial", "--log-format", "json"]
    said = invoke("train", dataset, second, "--init-from", first, *watched).splitlines()
    message = json.loads(said[0])["message"]
    assert message == "method   als, as --init-from is given: 15 epochs of rank 64"
    assert read_manifest(second).settings == TrainSettings()
