"""Our page and Dask's task stream in a real browser, while a model is trained."""

import shutil
import threading

import pytest
from support.data import MOVIELENS, generated, write_csv

from dask_als.cluster.connect import connected
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.model import files as model_files
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
PLOTS = ("rmse", "objective", "times", "partitions")
WIDTHS = (1300, 390)

_DATA = """
name => {
  const plot = Bokeh.documents[0].roots().find(root => root.name == name);
  if (!plot) return null;
  const data = plot.renderers[0].data_source.data;
  return Object.fromEntries(Object.keys(data).map(key => [key, Array.from(data[key])]));
}
"""
_EPOCHS = """
epochs => {
  const rmse = Bokeh.documents[0].roots().find(root => root.name == 'rmse');
  return rmse && rmse.renderers[0].data_source.data.epoch.length >= epochs;
}
"""
_RECTANGLES = """
() => Bokeh.documents[0].roots().flatMap(root => Array.from(root.references()))
  .some(model => model.data_source && (model.data_source.data.name || []).length > 3
    && Array.from(model.data_source.data.name).some(name => name.startsWith('solve-users')))
"""
# Axes and grids are grey or black.
_COLORED = """
() => Bokeh.documents[0].roots().filter(root => root.renderers).map(root => {
  const canvas = Bokeh.index.get_by_id(root.id).export("png", false).canvas;
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let colored = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const rgb = [pixels[i], pixels[i + 1], pixels[i + 2]];
    if (pixels[i + 3] > 200 && Math.max(...rgb) - Math.min(...rgb) > 40) colored += 1;
  }
  return colored;
})
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("browsed")
    source = MOVIELENS or write_csv(directory / "r.csv", generated(600, 2000, 30_000, seed=1))
    settings = PrepareSettings(test_fraction=0.1, partitions=4)
    return prepare(str(source), str(directory / "d"), SerialExecutor(), settings=settings)


@pytest.fixture
def tabs():
    """Give a browser's tabs by width, and what is complained of in any of them."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
    complaints = []
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox does not work as root, as in a container.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def complain(message):
            # Browsers ask for an icon outside of the dashboard's path, where nothing answers.
            if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
                complaints.append(message.text)

        def opened(url, width):
            tab = browser.new_page(viewport={"width": width, "height": 900})
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("console", complain)
            assert tab.goto(url).status == 200
            return tab

        yield opened, complaints
        browser.close()


class Training(threading.Thread):
    """A training that goes on only when it is let."""

    def __init__(self, dataset, path, client, settings):
        super().__init__()
        self.arguments = dataset, path, settings, DaskExecutor(client)
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.failed = None

    def run(self):
        try:
            train(*self.arguments, callbacks=[self.pause])
        except BaseException as error:
            self.failed = error
            self.begun.set()

    def pause(self, epoch):
        if epoch.figures.epoch == 4:
            self.begun.set()
            assert self.may_go_on.wait(120)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        "als",
        "gibbs",
        "implicit",
    ],
)
def test_points_appear_and_are_those_of_the_history(dataset, tmp_path, tabs, method):
    opened, complaints = tabs
    settings = {
        "als": TrainSettings(rank=8, epochs=8),
        "gibbs": TrainSettings(rank=8, method="gibbs", burn_in=4, samples=4),
        "implicit": TrainSettings(rank=8, epochs=8, feedback="implicit"),
    }[method]
    local = ClusterSettings(workers=2, threads=1, dashboard="127.0.0.1:0")
    with connected(local) as client:
        training = Training(dataset, str(tmp_path / "m"), client, settings)
        training.start()
        try:
            assert training.begun.wait(120)
            assert training.failed is None
            base = client.dashboard_link.removesuffix("status")
            pages = [opened(f"{base}training", width) for width in WIDTHS]
            stream = opened(f"{base}individual-task-stream", WIDTHS[0])
            for page in pages:
                page.wait_for_function(_EPOCHS, arg=4, timeout=60_000)
            before = pages[0].evaluate(_DATA, "rmse")["epoch"]
        finally:
            training.may_go_on.set()
            training.join(120)
        assert training.failed is None
        history = model_files.read_history(str(tmp_path / "m"))
        assert before == [1, 2, 3, 4]
        stream.wait_for_function(_RECTANGLES, timeout=60_000)
        for page in pages:
            page.wait_for_function(_EPOCHS, arg=8, timeout=60_000)
            shown = page.evaluate(_DATA, "rmse")
            assert shown["epoch"] == [figures.epoch for figures in history]
            assert shown["objective"] == [figures.objective for figures in history]
            assert shown["train"] == [figures.train_rmse for figures in history]
            assert shown["test"] == [figures.test_rmse for figures in history]
            assert len(page.evaluate(_DATA, "times")["half"]) == 16
            assert len(page.evaluate(_DATA, "partitions")["seconds"]) == 8
            colored = page.evaluate(_COLORED)
            assert len(colored) == len(PLOTS)
            assert min(colored) > 100
            overflow = "document.documentElement.scrollWidth - window.innerWidth"
            assert page.evaluate(overflow) <= 0
            page.locator("text=ended").first.wait_for(timeout=60_000)
    assert complaints == []
