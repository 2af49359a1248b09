"""The built book: executed outputs, figures with text for those who cannot see them, no dead link, no network."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from pages import HTML, NOTEBOOKS, ROOT, external
from PIL import Image

pytestmark = pytest.mark.book
NAMES = [path.stem for path in NOTEBOOKS]


def cells(name: str) -> list[dict]:
    return json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]


def test_all_nine_notebooks_are_there() -> None:
    assert [name[:2] for name in NAMES] == [f"{number:02d}" for number in range(1, 10)]


def test_every_page_of_the_table_of_contents_is_built(pages) -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    wanted = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    assert not [name for name in wanted if f"{name}.html" not in pages]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_page_holds_executed_outputs(pages, name: str) -> None:
    html = pages[f"notebooks/{name}.html"].path.read_text()
    assert len(re.findall(r'class="[^"]*cell_output', html)) >= 10
    assert "output traceback" not in html
    assert "output stderr" not in html


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_page_shows_its_figures_with_alternative_text(pages, name: str) -> None:
    html = pages[f"notebooks/{name}.html"].path.read_text()
    figures = re.findall(r"<img [^>]*_images/[0-9a-f]{40,}\.(?:png|svg)[^>]*>", html)
    wanted = [c["metadata"]["mystnb"]["image"]["alt"] for c in cells(name) if "mystnb" in c["metadata"]]
    texts = [unescape(found[1]) for tag in figures if (found := re.search(r'alt="([^"]*)"', tag))]
    assert len(figures) >= 3, "a page has three to six figures"
    assert len(texts) == len(figures)
    assert not [text for text in texts if "_images/" in text or len(text) < 15], "a figure without alternative text"
    assert set(wanted) <= set(texts), "a cell with alternative text shows no figure"


def test_a_table_written_by_a_cell_is_a_table_on_the_page(pages) -> None:
    assert not [name for name, page in pages.items() if re.search(r"<p>\|.*\|", page.path.read_text())]


def test_no_table_of_a_page_is_cut_off_or_pale_in_the_dark(pages) -> None:
    for name, page in pages.items():
        html = page.path.read_text()
        cut = re.findall(r"<td[^>]*>([^<.][^<]*\.\.\.)</td>", html)
        assert not cut, f"{name}: pandas cut off {cut[0]!r}; show the table with tables.show_sentences"
        styled = re.findall(r'<table id="T_[^"]*"([^>]*)>', html)
        assert all("dataframe" in attributes for attributes in styled), f"{name}: the theme knows tables of that class"


def test_the_page_on_metrics_holds_numbers_of_the_run(pages) -> None:
    html = pages["book/metrics.html"].path.read_text()
    assert len(re.findall(r'class="[^"]*cell_output', html)) >= 10
    assert "output traceback" not in html and "output stderr" not in html
    for claim in ("Too many declined customers", "Wrong errors"):
        assert f"<strong>{claim}.</strong>" in html
    assert "<h3>Too dear" in html and re.search(r"<strong>[0-9.]+ times as slow</strong>", html)


def test_the_checklist_was_executed_and_every_line_passed(pages) -> None:
    html = pages["book/mlops.html"].path.read_text()
    assert "output traceback" not in html and "output stderr" not in html
    assert len(re.findall(r"<td[^>]*>(?:<p>)?yes(?:</p>)?</td>", html)) >= 15 and "<strong>NO</strong>" not in html


def test_no_internal_link_is_broken(pages) -> None:
    broken = []
    for name, page in pages.items():
        for link in {*page.links, *page.loads}:
            split = urlsplit(link)
            if split.scheme or external(link):
                continue
            target = (page.path.parent / unquote(split.path)).resolve() if split.path else page.path
            if not target.exists():
                broken.append(f"{name}: {link}")
            elif split.fragment and target.suffix == ".html":
                known = pages.get(target.relative_to(HTML.resolve()).as_posix())
                if known and unquote(split.fragment) not in known.ids:
                    broken.append(f"{name}: {link}")
    assert not broken


def test_no_page_loads_anything_from_the_network(pages) -> None:
    loads = [f"{name}: {load}" for name, page in pages.items() for load in page.loads if external(load)]
    assert not loads
    styles = [path for path in (HTML / "_static").rglob("*.css")]
    assert not [p.name for p in styles if re.search(r"(@import|url\()\s*[\"']?(https?:)?//", p.read_text("utf-8"))]
    for page in pages.values():
        code = "".join(re.findall(r"<script(?![^>]*src)[^>]*>(.*?)</script>", page.path.read_text("utf-8"), re.S))
        assert not re.search(r"(src\s*=|import\s*\(?|fetch\()\s*[\"']https?://", code), page.path.name


def test_every_exam_item_leads_to_a_page(pages) -> None:
    links = {urlsplit(link).path for link in pages["book/objectives.html"].links}
    assert not [name for name in NAMES if f"../notebooks/{name}.html" not in links]


def test_the_glossary_holds_the_words_of_the_course(pages) -> None:
    terms = {i for i in pages["book/glossary.html"].ids if i.startswith("term-")}
    assert len(terms) >= 50


def test_the_pages_reveal_no_path_of_the_machine_that_built_them(pages) -> None:
    own = (str(ROOT) + "/", str(Path.home()) + "/")
    assert not [name for name, page in pages.items() if any(path in page.path.read_text("utf-8") for path in own)]


def test_search_finds_a_word_without_a_network(pages, browser) -> None:
    address = (HTML / "search.html").as_uri() + "?q=chargeback"
    dom = browser(address, "--virtual-time-budget=15000", "--dump-dom")
    results = re.findall(r'<ul class="search"[^>]*>.*?</ul>', dom, re.S)
    assert results and "glossary.html" in results[0]


def look(browser, address: str) -> dict:
    """Return what `_LOOK` reports of a page."""
    dom = browser(address, "--virtual-time-budget=10000", "--window-size=1500,1000", "--dump-dom")
    return json.loads(unescape(re.search(r'<p id="seen">(.*?)</p>', dom, re.S)[1]))


LOOKS = [(width, mode) for width in (1400, 390) for mode in ("light", "dark")]


@pytest.mark.parametrize(("width", "mode"), LOOKS)
@pytest.mark.parametrize("page", ["book/index", "notebooks/04_feature_engineering", "book/aws_per_stage"])
def test_a_page_fits_the_screen_with_one_search_field(site, browser, page: str, width: int, mode: str) -> None:
    address = f"{site}/__look__?page={page}.html&width={width}&mode={mode}"
    seen = look(browser, address)
    assert seen["theme"] == mode
    assert seen["overflow"] <= 0, "the page is wider than the screen"
    assert seen["fields"] == (1 if width > 1000 else 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_table_of_results_fits_a_wide_page(site, browser, name: str) -> None:
    assert look(browser, f"{site}/__look__?page=notebooks/{name}.html&width=1400&mode=light")["wide"] == []


def test_a_screenshot_shows_more_than_a_blank_page(pages, browser, tmp_path) -> None:
    shot = tmp_path / "page.png"
    browser((HTML / "book" / "index.html").as_uri(), "--window-size=1400,1200", f"--screenshot={shot}")
    with Image.open(shot) as image:
        assert image.size == (1400, 1200)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
