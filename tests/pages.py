"""Read the pages of the built book."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def skip_or_fail(reason: str) -> None:
    """Skip on a machine that lacks something; fail in CI, where nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Page:
    """What the tests need of one built page."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)


class _Reader(HTMLParser):
    """Collects ids, links, what a browser would load, and the images."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.page.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
        if tag == "link" and not {"canonical", "author", "next", "prev", "index", "search"} & set(given["rel"].split()):
            self.page.loads.append(given.get("href", ""))
        if tag in ("script", "img", "iframe", "video", "audio", "source", "embed") and "src" in given:
            self.page.loads.append(given["src"])
        if tag == "img":
            self.page.images.append(given)


def read_page(path: Path) -> Page:
    """Parse one page."""
    page = Page(path)
    _Reader(page).feed(path.read_text(encoding="utf-8"))
    return page


def external(address: str) -> bool:
    """Whether a browser would ask another machine for this address."""
    return bool(re.match(r"(https?:)?//", address))
