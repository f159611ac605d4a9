import json
import re
import shutil
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner
from playwright.sync_api import sync_playwright
from support.data import generated, small_settings, write_csv

from dask_als.cli.main import cli
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import Titles, prepare
from dask_als.evaluation.calibration import calibration
from dask_als.model.model import ALSModel
from dask_als.report.data import measure_errors
from dask_als.report.page import report, write_report
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
HEADINGS = [
    "Objective",
    "Error by epoch",
    "Ratings per user and item",
    "Error by popularity",
    "Predictions against ratings",
    "Biases",
    "Items in factor space",
    "Polarizing items",
]
NEED_RATINGS = HEADINGS[3:5]
OF_IMPLICIT = [heading for heading in HEADINGS if heading not in (*NEED_RATINGS, "Biases")]
CHROMIUM = shutil.which("chromium")
GIBBS = TrainSettings(method="gibbs", rank=3, burn_in=2, samples=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    source = write_csv(directory / "r.csv", generated(60, 50, 1500, seed=6))
    items = sorted({item for _, item, _ in generated(60, 50, 1500, seed=6)})
    titles = [(item, f"<b>Film</b> & {item}") for item in items]
    write_csv(directory / "movies.csv", titles, header=("movieId", "title"))
    dataset = prepare(
        str(source),
        str(directory / "d"),
        SERIAL,
        settings=PrepareSettings(test_fraction=0.2),
        titles=Titles(str(directory / "movies.csv")),
    )
    train(dataset, str(directory / "m"), small_settings(), SERIAL)
    return str(directory / "m")


@pytest.fixture(scope="module")
def page(model):
    return page_of(model)


def page_of(model):
    loaded = ALSModel.load(model)
    errors = None
    if loaded.settings.feedback == "explicit":
        errors = measure_errors(loaded, model, loaded.dataset, SERIAL)
    return report(loaded, errors, name="<i>mine</i>")


def headings(page):
    return re.findall("<h2>(.*?)</h2>", page)


def test_a_page_has_all_plots_and_asks_nothing_of_the_network(page):
    assert headings(page) == HEADINGS
    assert not re.search(r"<(script|img|iframe)[^>]*\ssrc=|<link[^>]*href=\"http|@import", page)


def test_names_are_text_not_markup(page):
    assert "<i>mine</i>" not in page
    assert "&lt;i&gt;mine&lt;/i&gt;" in page
    assert "<b>Film</b>" not in page


def test_without_the_dataset_the_plots_that_need_ratings_are_left_out(model):
    loaded = ALSModel.load(model)
    loaded.dataset = None
    page = report(loaded, None, name="mine")
    assert headings(page) == [heading for heading in HEADINGS if heading not in NEED_RATINGS]
    assert "the dataset that this model was trained on does not exist any more" in page


def test_a_model_of_implicit_feedback_has_no_errors_of_ratings(model, tmp_path):
    dataset, path = ALSModel.load(model).dataset, str(tmp_path / "implicit")
    train(dataset, path, small_settings(feedback="implicit"), SERIAL)
    out = str(tmp_path / "report.html")
    arguments = ["report", path, "--out", out]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    with open(out, encoding="utf-8") as file:
        page = file.read()
    assert headings(page) == OF_IMPLICIT
    assert "implicit feedback has no ratings to predict" in page


def test_a_model_of_samples_says_what_its_lines_are(model, tmp_path):
    dataset, path = ALSModel.load(model).dataset, str(tmp_path / "gibbs")
    train(dataset, path, GIBBS, SERIAL)
    page = page_of(path)
    assert headings(page) == HEADINGS
    assert "held out, from epoch 3 on, that of their mean" in page


def test_its_figures_are_those_of_the_model_not_of_the_last_epoch(model):
    loaded = ALSModel.load(model)
    loaded.history.append(replace(loaded.history[-1], epoch=77))
    assert "<dd>77</dd>" not in report(loaded, None, name="mine")


def test_the_command(model, tmp_path):
    out = str(tmp_path / "report.html")
    arguments = ["report", model, "--out", out, "--json", "--cluster", "serial"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    loaded = ALSModel.load(model)
    assert sum(row["ratings"] for row in said["by_popularity"]) == loaded.dataset.n_test
    squared = sum(row["ratings"] * row["rmse"] ** 2 for row in said["by_popularity"])
    rmse = (squared / loaded.dataset.n_test) ** 0.5
    assert rmse == pytest.approx(loaded.history[-1].test_rmse, rel=1e-5)
    with open(out, encoding="utf-8") as file:
        assert headings(file.read()) == HEADINGS


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        # Chromium's own sandbox does not work as root, as in a container.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


SLOW = [pytest.mark.slow]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
@pytest.mark.parametrize(
    ("width", "media", "settings", "expected"),
    [
        (1300, "screen", None, HEADINGS),
        pytest.param(390, "screen", None, HEADINGS, marks=SLOW),
        pytest.param(794, "print", None, HEADINGS, marks=SLOW),
        pytest.param(1300, "screen", GIBBS, HEADINGS, marks=SLOW),
        pytest.param(390, "screen", small_settings(feedback="implicit"), OF_IMPLICIT, marks=SLOW),
    ],
    ids=["wide", "phone", "print", "gibbs", "implicit"],
)
def test_a_browser_draws_every_plot(model, tmp_path, browser, width, media, settings, expected):
    if settings is not None:
        dataset, model = ALSModel.load(model).dataset, str(tmp_path / "model")
        train(dataset, model, settings, SERIAL)
    file = tmp_path / "report.html"
    write_report(str(file), page_of(model))
    complaints, requests = [], []
    with browser.new_page(viewport={"width": width, "height": 900}) as tab:
        tab.emulate_media(media=media)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "console",
            lambda said: complaints.append(said.text) if said.type in ("error", "warning") else 0,
        )
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(file.as_uri())
        tab.wait_for_function("window.Bokeh && Bokeh.documents[0] && Bokeh.documents[0].is_idle")
        colors = tab.evaluate(_COLORS_OF_PLOTS)
        overflow = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert overflow <= 0
    assert len(colors) == len(expected)
    # An empty plot has axes and grid alone, which are grey.
    assert min(colors) > 100


_COLORS_OF_PLOTS = """
() => Bokeh.documents[0].roots().map(root => {
  const canvas = Bokeh.index.get_by_id(root.id).export("png", false).canvas;
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let colored = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const dark = pixels[i] < 60 && pixels[i + 1] < 66 && pixels[i + 2] < 74 && pixels[i + 3] > 200;
    const grey = Math.max(pixels[i], pixels[i + 1], pixels[i + 2])
      - Math.min(pixels[i], pixels[i + 1], pixels[i + 2]) < 25;
    if (pixels[i + 3] && (!grey || dark)) colored += 1;
  }
  return colored;
})
"""


@pytest.mark.slow
def test_a_model_of_samples_shows_its_calibration(model, tmp_path):
    dataset = ALSModel.load(model).dataset
    settings = small_settings(method="gibbs", epochs=None, burn_in=2, samples=4, keep_samples=True)
    train(dataset, str(tmp_path / "m"), settings, SERIAL)
    out = tmp_path / "page.html"
    ended = CliRunner().invoke(
        cli,
        ["report", str(tmp_path / "m"), "--out", str(out), "--json", "--cluster", "serial"],
    )
    assert ended.exit_code == 0, ended.output
    shown = json.loads(ended.stdout)["calibration"]
    found = calibration(str(tmp_path / "m"), dataset, SERIAL)
    assert shown == json.loads(json.dumps(asdict(found)))
    page = out.read_text(encoding="utf-8")
    assert "Calibration" in headings(page)
    assert f"{found.intervals[2].coverage:.1%} in the 90% interval" in page
