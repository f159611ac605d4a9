"""Rows that several threads solve have the bits of one thread's."""

import threading

import pytest
from support.data import bits, prepared, small_settings

from dask_als.core.executor import SerialExecutor, Shape
from dask_als.solvers import threads
from dask_als.training.train import train

GIBBS = {"method": "gibbs", "epochs": None, "burn_in": 2, "samples": 3}
SETTINGS = {
    "als": small_settings(),
    "als float64": small_settings(dtype="float64"),
    "row priors": small_settings(implicit_attributes="both"),
    "gibbs": small_settings(**GIBBS),
    "implicit": small_settings(feedback="implicit"),
}


class Threads(SerialExecutor):
    """Runs a task at a time, and says that a worker has some threads."""

    def __init__(self, n_threads):
        self.shape = Shape(workers=1, threads=n_threads, memory=None)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_threads_do_not_show_in_the_bits(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(threads, "_LEAST_RATINGS", 5)
    dataset, results, solving = prepared(tmp_path, "dataset", 2), [], set()

    def split(block, n_blocks, **options):
        solving.add((threading.current_thread().name, n_blocks))
        return whole_split(block, n_blocks, **options)

    whole_split = threads.split
    monkeypatch.setattr(threads, "split", split)
    for n_threads in (1, 3, 14):
        model = tmp_path / f"model-{n_threads}"
        train(dataset, str(model), settings, Threads(n_threads))
        results.append(bits(model))
    assert results[0] == results[1] == results[2]
    assert {n_blocks for _, n_blocks in solving} == {2, 7}


def test_few_ratings_are_solved_by_the_thread_of_their_task(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "split", None)
    train(prepared(tmp_path, "dataset", 1), str(tmp_path / "model"), small_settings(), Threads(4))
    assert (tmp_path / "model" / "model.json").exists()
