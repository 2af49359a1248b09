"""The built book, read once, and a browser to look at it."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from pages import HTML, Page, read_page, skip_or_fail

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def pages() -> dict[str, Page]:
    """Every page of the built book, by its path within it."""
    if not (HTML / "index.html").exists():
        skip_or_fail("The book is not built: run `make book` first.")
    found = (p for p in HTML.rglob("*.html") if "_static" not in p.parts)
    return {p.relative_to(HTML).as_posix(): read_page(p) for p in found}


class _Site(SimpleHTTPRequestHandler):
    """Serves the book, and a page with a frame of chosen width that reports what a reader of that width sees."""

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        if split.path != "/__look__":
            return super().do_GET()
        asked = {name: values[0] for name, values in parse_qs(split.query).items()}
        body = _LOOK.replace("WIDTH", asked["width"]).replace("PAGE", asked["page"]).replace("MODE", asked["mode"])
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body.encode())
        return None

    def log_message(self, *_: object) -> None:
        """Say nothing."""


_LOOK = """<!doctype html><script>localStorage.setItem("mode", "MODE"); localStorage.setItem("theme", "MODE");</script>
<body style="margin:0"><p id="seen"></p>
<iframe id="page" src="/PAGE" style="border:0;width:WIDTHpx;height:900px"></iframe>
<script>
document.getElementById("page").addEventListener("load", () => setTimeout(() => {
  const inner = document.getElementById("page").contentDocument;
  const visible = (e) => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0; };
  const fields = [...inner.querySelectorAll("button.search-button-field, input[type=search]")].filter(visible);
  const wide = [...inner.querySelectorAll(".cell_output table")].filter(t => t.scrollWidth > t.clientWidth + 1);
  const ground = getComputedStyle(inner.body).backgroundColor;
  document.getElementById("seen").textContent = JSON.stringify({
    overflow: inner.documentElement.scrollWidth - WIDTH, fields: fields.length, ground: ground,
    wide: wide.map(table => table.tHead ? table.tHead.innerText : table.innerText.slice(0, 80)),
    theme: inner.documentElement.dataset.theme, title: inner.title });
}, 500));
</script>"""


@pytest.fixture(scope="session")
def site(pages: dict[str, Page]) -> Iterator[str]:
    """The address of the book on a server of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Site, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that opens a page in a headless browser and returns what it prints."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        skip_or_fail(f"No browser: install one of {', '.join(BROWSERS)}.")

    def look(address: str, *arguments: str) -> str:
        own = tmp_path_factory.mktemp("browser")
        command = [found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += ["--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={own}", *arguments, address]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return look
