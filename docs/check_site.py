"""Check the pages that Sphinx has built: their links lead somewhere, and no network is needed.

Run by `make docs`: ``python docs/check_site.py docs/_build/html``. Links to other sites are not
followed; `make linkcheck` does that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

_LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
# Links that only name a page, for search engines and readers of feeds.
_NAMED = {"canonical", "author", "license", "search"}


class Page(HTMLParser):
    """Anchors of a page, what it links to and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag names."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        name = _LOADED.get(tag, "")
        if name in values and values.get("rel") not in _NAMED:
            self.loaded.append(values[name])


def mistakes(site: Path) -> Iterator[str]:
    """Yield what is wrong, a line each."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        where = path.relative_to(site)
        for address in page.loaded:
            if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
                yield f"{where} loads {address} from the network"
        for address in [*page.links, *page.loaded]:
            if urlsplit(address).scheme or address.startswith("//"):
                continue
            file, anchor = urldefrag(unquote(address))
            target = (path.parent / file).resolve() if file else path
            target = target / "index.html" if target.is_dir() else target
            # What stands after a question mark is a version.
            if not Path(str(target).partition("?")[0]).exists():
                yield f"{where} links to {address}, which is not there"
            elif target in pages and anchor not in pages[target].anchors:
                yield f"{where} links to {address}, which has no such anchor"


def main(site: str) -> None:
    """Print the mistakes, and fail if there are any."""
    found = list(mistakes(Path(site).resolve()))
    print("\n".join(found) or "all links within the pages lead somewhere")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
