"""The pages for developers name what is there, in the order that is enforced."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dask_als"
DEVELOPERS = ROOT / "docs" / "developers"


def layers():
    """Return the layers of the contract without the package's name, the lowest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (ordered,) = (it for it in contracts["contracts"] if it["type"] == "layers")
    return [name.removeprefix("dask_als.") for name in reversed(ordered["layers"])]


def folders_of_the_page():
    page = (DEVELOPERS / "architecture.md").read_text()
    return re.findall(r"^\| `([a-z_]+)(?:/|\.py)` \|", page, re.MULTILINE)


def test_the_table_of_layers_is_the_contract():
    assert folders_of_the_page() == [name for name in layers() if name != "__main__"]


def test_every_part_of_the_package_is_a_layer():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__"} == set(layers())


def modules_named(page):
    """Return what a page names like `folder/module`, or `folder/`."""
    folders = "|".join(name for name in layers() if (PACKAGE / name).is_dir())
    return re.findall(rf"`((?:{folders})/[a-z0-9_/]*(?:\.py)?)`", page.read_text())


@pytest.mark.parametrize("page", sorted(DEVELOPERS.glob("*.md")), ids=lambda page: page.stem)
def test_modules_that_a_page_names_exist(page):
    named = modules_named(page)
    assert named or page.stem == "debug"
    places = [(name, PACKAGE / name) for name in named]
    missing = [
        name
        for name, place in places
        if not (place.is_dir() or place.exists() or place.with_suffix(".py").exists())
    ]
    assert missing == []


@pytest.mark.parametrize(
    "new", ["file format", "a loss", "metric", "kind of cluster", "flag of `recommend`"]
)
def test_where_it_goes_is_answered(new):
    page = (DEVELOPERS / "architecture.md").read_text()
    table = page.partition("## Where does it go?")[2].partition("\n## ")[0]
    assert re.search(rf"^\|[^|]*{re.escape(new)}[^|]*\|[^|]*\|[^|]*`", table, re.MULTILINE)


def test_no_source_has_control_characters():
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".html", ".css", ".svg", ".txt", ".ipynb"}
    folders = ["dask_als", "docs", "jobs", "k8s", "tests", ".ci"]
    files = [path for name in folders for path in (ROOT / name).rglob("*")]
    files += list(ROOT.glob("*.*"))
    sources = [
        path
        for path in files
        if path.is_file() and path.suffix in suffixes and "_build" not in path.parts
    ]
    assert len(sources) > 200
    control = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
    assert [str(path) for path in sources if control.search(path.read_bytes())] == []


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'__version__ = "{version}"' in (PACKAGE / "__init__.py").read_text()
    image = f"dask-als:{version}"
    for path in ("k8s/Dockerfile", "docs/kubernetes.md"):
        assert set(re.findall(r"dask-als:\d+\.\d+\.\d+", (ROOT / path).read_text())) == {image}
    assert image in (PACKAGE / "settings" / "cluster_size.py").read_text()
    assert version in (ROOT / "CHANGELOG.md").read_text()
