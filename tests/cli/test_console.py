import io
import re

import pandas as pd

from dask_als.cli import console
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.run_events import Progress

FIGURES = EpochFigures(epoch=2, objective=-1234.5, train_rmse=0.61239, test_rmse=None, seconds=0.25)


def screen(*, terminal):
    return console.Screen(file=io.StringIO(), force_terminal=terminal, width=120)


def test_figures_in_words():
    assert console.described(FIGURES) == "objective -1,234.50  RMSE 0.6124"
    with_test = EpochFigures(2, -1234.5, 0.61239, 0.91, 0.25)
    assert console.described(with_test).endswith("  test RMSE 0.9100")


def test_a_line_an_epoch_where_there_is_no_terminal():
    its_screen = screen(terminal=False)
    with console.training(its_screen, 20) as listener:
        listener.epoch(FIGURES)
        listener.progress(Progress(3, "users", half=0, done=1, total=4))
    assert its_screen.file.getvalue() == (
        "epoch    2/20  objective -1,234.50  RMSE 0.6124  0.25 s\n"
    )


def test_a_bar_in_a_terminal():
    its_screen = screen(terminal=True)
    with console.training(its_screen, 20) as listener:
        listener.progress(Progress(3, "items", half=1, done=2, total=12))
        listener.epoch(FIGURES)
    shown = its_screen.file.getvalue()
    assert "2/20" in shown
    assert "items  2/12" in shown
    assert "RMSE 0.6124" in shown


def test_preparing_is_silent_where_there_is_no_terminal():
    its_screen = screen(terminal=False)
    with console.preparing(its_screen) as progress:
        progress("read", 1, 2)
    assert its_screen.file.getvalue().strip() == ""


def test_preparing_shows_stages_in_a_terminal():
    its_screen = screen(terminal=True)
    with console.preparing(its_screen) as progress:
        for stage in console.STAGES:
            progress(stage, 3, 3)
    assert its_screen.file.getvalue().count("3/3") >= len(console.STAGES)


def test_a_table():
    its_screen = screen(terminal=False)
    frame = pd.DataFrame({"item_id": [7], "score": [4.25], "title": ["Seven"]})
    its_screen.print(console.table_of(frame, "Recommended"))
    shown = its_screen.file.getvalue()
    assert shown.startswith("Recommended")
    assert all(text in shown for text in ("item_id", "4.25", "Seven"))


LONG = "https://shop.example.com/catalogue/products/category-7/item-50?variant=blue" * 3


def test_ids_are_whole_outside_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    its_screen = console.Screen(file=io.StringIO())
    its_screen.print(console.table_of(pd.DataFrame({"item_id": [LONG], "score": [4.25]}), "Best"))
    assert [line for line in its_screen.file.getvalue().splitlines() if f"│ {LONG} │" in line]


def test_ids_are_whole_in_a_narrow_terminal():
    its_screen = console.Screen(file=io.StringIO(), force_terminal=True, width=40)
    its_screen.print(console.table_of(pd.DataFrame({"item_id": [LONG], "score": [4.25]}), "Best"))
    cells = re.findall(r"^│ (\S+) +│", its_screen.file.getvalue(), flags=re.MULTILINE)
    assert "".join(cells) == LONG
