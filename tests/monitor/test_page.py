import math

import pytest
from bokeh.document import Document
from support.monitored import figures, started, train_an_epoch

from dask_als.monitor.page import document

EXTRA = {"prefix": "/", "pages": ["status", "training"], "plots": []}


def page(runs):
    """Return a document and what brings it up to date."""
    doc = Document()
    document(runs, EXTRA, doc)
    (callback,) = doc.session_callbacks
    return {root.name: root for root in doc.roots}, callback.callback


def data(root):
    return dict(root.renderers[0].data_source.data)


def test_figures_by_epoch():
    state = started()
    for epoch in (1, 2):
        train_an_epoch(state, epoch)  # at the same time, as a clock set back shows it
        state.record(figures(epoch))
    roots, _ = page({"run": state})
    shown = data(roots["rmse"])
    assert shown["epoch"] == [1, 2]
    assert shown["objective"] == [-1000, -500]
    assert shown["train"] == [0.8, 0.4]
    assert shown["test"] == [0.9, 0.9]
    assert "2 of 10" in roots["summary"].text
    assert "0.4000" in roots["summary"].text


def test_half_epochs_and_partitions():
    state = started()
    train_an_epoch(state)
    roots, _ = page({"run": state})
    halves = data(roots["times"])
    assert halves["half"] == ["1 users", "1 items"]
    assert halves["solving"] == [1.5, 0.5]
    partitions = data(roots["partitions"])
    assert partitions["partition"] == [("users", "0"), ("users", "1"), ("items", "0")]
    assert partitions["seconds"] == [1, 2, 1]
    assert partitions["ratings"] == [40, 60, 100]
    colors = dict(zip(partitions["worker"], partitions["color"], strict=True))
    assert len(set(colors.values())) == 2


def test_it_follows_a_training():
    state = started()
    roots, update = page({"run": state})
    assert data(roots["rmse"])["epoch"] == []
    state.record(figures(1, test_rmse=None))
    update()
    assert data(roots["rmse"])["epoch"] == [1]
    assert math.isnan(data(roots["rmse"])["test"][0])
    assert "held-out RMSE" not in roots["summary"].text
    state.is_over = True
    update()
    assert "ended" in roots["summary"].text


def test_it_turns_to_a_new_training_and_stays_at_the_end_of_the_last():
    first, second = started(), started(model="/models/next")
    first.record(figures(1))
    runs = {"first": first}
    roots, update = page(runs)
    runs["second"] = second
    update()
    assert "next" in roots["about"].text
    assert data(roots["rmse"])["epoch"] == []
    runs.clear()
    update()
    assert "next" in roots["summary"].text


def test_without_a_training():
    roots, update = page({})
    update()
    assert roots["summary"].text == "No training is running."


def test_many_epochs_are_thinned_out_but_for_the_last():
    state = started()
    for epoch in range(1, 5001):
        state.record(figures(epoch))
    roots, _ = page({"run": state})
    shown = data(roots["rmse"])["epoch"]
    assert len(shown) <= 1000
    assert shown[-1] == 5000


@pytest.mark.parametrize("name", ["model", "dataset"])
def test_names_are_text_not_markup(name):
    roots, _ = page({"run": started(**{name: "/d/<script>x"})})
    for root in ("summary", "about"):
        assert "<script>" not in roots[root].text
        assert "&lt;script&gt;" in roots[root].text
