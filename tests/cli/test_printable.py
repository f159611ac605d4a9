import io
import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.cells import cell_len

from dask_als.cli import console
from dask_als.cli.log import TextLog
from dask_als.cli.printable import printable, printable_lines

NASTY = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("[]/\\:\x1b\x07\x9b\x7f\r\n\t\u202e\u2028\ud800"),
    ),
    max_size=30,
) | st.sampled_from(["[/bar]", "[bar]", "[link=http://evil]x[/link]", ":smile:", "\x1b[2J"])


def screen():
    return console.Screen(file=io.StringIO(), width=4000, force_terminal=True, color_system=None)


@given(NASTY)
def test_nothing_controls_a_terminal(text):
    shown = printable(text)
    assert not any(letter in shown for letter in "\x1b\x07\x9b\x7f\r\n\t\u202e\u2028")
    shown.encode()
    assert printable(shown) == shown


def test_what_is_shown():
    assert printable("\x1b]0;x\x07 \x9b\u202e\udcff") == r"\x1b]0;x\x07 \x9b\u202e\udcff"
    assert printable("Amélie (2001) 千と千尋 👩‍🚀") == "Amélie (2001) 千と千尋 👩‍🚀"
    assert printable_lines("a\n\tb\x1b[2J\r") == "a\n\tb\\x1b[2J\\r"


@given(NASTY)
def test_tables_show_text_as_it_is(text):
    # pandas takes no surrogates, and a table gives letters without a width no room.
    assume(not any("\ud800" <= letter <= "\udfff" for letter in text))
    assume(all(cell_len(letter) for letter in printable(text)))
    its = screen()
    its.print(console.table_of(pd.DataFrame({text: [text]}), text))
    shown = its.file.getvalue()
    assert shown.count(printable(text).strip()) >= 3
    assert "\x07" not in shown


@given(NASTY)
def test_lines_show_text_as_it_is(text):
    its = screen()
    TextLog(its).say(f"model    {text}!")
    assert its.file.getvalue() == f"model    {printable(text)}!\n"


PRINTS = """
import sys
from dask_als.cli import outlets
with outlets.lasting():
    for line in range(100_000):
        print(line)
    if sys.stdout is not None:
        sys.stdout.flush()
    print(outlets.is_read(), file=sys.stderr)
    try:
        outlets.check_written()
    except Exception as error:
        print(error, file=sys.stderr)
print("done", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        ("| head -1 >/dev/null", "False\ndone\n"),
        (
            "> /dev/full",
            "False\nstandard output could not be written: No space left on device\ndone\n",
        ),
        ("> /dev/null", "True\ndone\n"),
        (">&-", "True\ndone\n"),
    ],
)
def test_work_goes_on_without_a_reader(tmp_path, reader, said):
    (tmp_path / "prints.py").write_text(PRINTS)
    line = f"'{sys.executable}' '{tmp_path}/prints.py' {reader}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == said
