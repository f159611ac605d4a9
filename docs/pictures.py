"""Draw the pictures of these pages again: the Training page and the report, as Chromium shows them.

``python docs/pictures.py`` needs the package, Playwright and Debian's chromium. It trains on
generated ratings, for a minute or two.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from distributed import Client, LocalCluster
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from dask_als import ALS

STATIC = Path(__file__).resolve().with_name("_static")
CHROMIUM = "/usr/bin/chromium"
EPOCHS = 12


def main() -> None:
    """Draw both pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        # Paths that are relative are short ones in the pictures.
        os.chdir(folder)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        counts = ["--users", "40000", "--items", "12000", "--ratings", "4000000"]
        _command("generate", "ratings", *counts)
        _command("prepare", "ratings", "dataset", "--test-fraction", "0.1", "--partitions", "8")
        _draw_training_page(browser, "dataset", "model")
        _command("report", "model", "--out", "report.html")
        _draw(browser, f"file://{folder}/report.html", "report.png", height=1500)
        browser.close()


def _command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dask_als", *arguments], check=True)


def _draw_training_page(browser: Browser, dataset: str, model: str) -> None:
    """Draw the page while the last epoch but two waits for us."""
    reached, drawn = threading.Event(), threading.Event()

    def wait(epoch) -> None:
        if epoch.figures.epoch == EPOCHS - 2:
            reached.set()
            drawn.wait()

    def train(client: Client) -> None:
        estimator = ALS(rank=64, epochs=EPOCHS, factor_regularization=55.0, client=client)
        estimator.fit(dataset, callbacks=[wait]).save(model)

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        training = threading.Thread(target=train, args=[client])
        training.start()
        try:
            reached.wait()
            page = client.dashboard_link.replace("/status", "/training")
            _draw(browser, page, "training-page.png", height=855)
        finally:
            drawn.set()
            training.join()


def _draw(browser: Browser, url: str, name: str, *, height: int) -> None:
    tab = browser.new_page(viewport={"width": 1200, "height": height})
    tab.goto(url)
    tab.wait_for_timeout(4_000)
    tab.screenshot(path=STATIC / name)
    tab.close()
    # A palette makes the files a third as large.
    with Image.open(STATIC / name) as picture:
        picture.convert("RGB").quantize(128).save(STATIC / name, optimize=True)


if __name__ == "__main__":
    main()
