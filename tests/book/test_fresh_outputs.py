"""The build of the book: outputs follow the code, an unchanged book is not executed again, warnings fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jupyter_cache import get_cache

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book"))

import execute  # noqa: E402
from fresh_outputs import cache_folder  # noqa: E402

CELL = """
import sys
sys.path.insert(0, "code")
import answer
with open("runs.txt", "a") as runs:
    runs.write("once\\n")
print("the answer is", answer.ANSWER)
"""


@pytest.fixture
def tiny_book(tmp_path: Path) -> Path:
    """A book of one page and one notebook that imports a module, built with our own settings."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["sphinx"]["local_extensions"]["fresh_outputs"] = str(ROOT / "book" / "_ext")
    config["sphinx"]["config"] |= {"fresh_outputs_code": ["code"], "html_static_path": [], "html_css_files": []}
    config["html"].pop("favicon")
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\nchapters:\n  - file: stage\n")
    (tmp_path / "page.md").write_text("# A page\n\nSee [the stage](stage.ipynb).\n")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "answer.py").write_text("ANSWER = 41\n")
    write_notebook(tmp_path / "stage.ipynb", CELL)
    return tmp_path


def write_notebook(path: Path, source: str) -> None:
    """Write a notebook with a title and one code cell."""
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# A stage"}
    code = {"cell_type": "code", "id": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    content = {"cells": [title, code], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content))


def build(book: Path) -> subprocess.CompletedProcess[str]:
    """Build as a reader would who types the plain command."""
    command = [str(Path(sys.executable).parent / "jupyter-book"), "build", "."]
    return subprocess.run(command, cwd=book, capture_output=True, text=True, timeout=300)


def page(book: Path) -> str:
    return (book / "_build" / "html" / "stage.html").read_text()


def runs(book: Path) -> int:
    return len((book / "runs.txt").read_text().splitlines())


def test_an_edit_of_imported_code_replaces_the_outputs_and_nothing_else_executes(tiny_book: Path) -> None:
    first = build(tiny_book)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "the answer is 41" in page(tiny_book)

    assert build(tiny_book).returncode == 0
    assert runs(tiny_book) == 1, "an unchanged book was executed again"

    (tiny_book / "page.md").write_text("# Another page\n\nSee [the stage](stage.ipynb).\n")
    assert build(tiny_book).returncode == 0
    assert runs(tiny_book) == 1, "an edit of prose executed a notebook"

    (tiny_book / "code" / "answer.py").write_text("ANSWER = 42\n")
    assert build(tiny_book).returncode == 0
    assert "the answer is 42" in page(tiny_book)
    assert "the answer is 41" not in page(tiny_book)
    assert runs(tiny_book) == 2


def test_what_was_executed_beforehand_is_not_executed_again(tiny_book: Path) -> None:
    notebook = tiny_book / "stage.ipynb"
    content, result = execute.execute(notebook, timeout=60)
    cache = get_cache(cache_folder([tiny_book / "code"], tiny_book / "_build"))
    assert result.err is None and not execute.is_kept(cache, notebook)
    execute.keep(cache, notebook, content, result.time)
    assert execute.is_kept(cache, notebook)
    assert build(tiny_book).returncode == 0
    assert "the answer is 41" in page(tiny_book)
    assert runs(tiny_book) == 1


def test_the_longest_notebooks_start_first_and_all_others_follow_in_order() -> None:
    notebooks = list((execute.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    names = [path.stem for path in execute.in_order(notebooks)]
    first = len(execute.FIRST)
    assert tuple(names[:first]) == execute.FIRST
    assert names[first:] == sorted({path.stem for path in notebooks} - set(execute.FIRST))


def test_a_warning_fails_the_plain_build_and_goes_on_failing(tiny_book: Path) -> None:
    (tiny_book / "page.md").write_text("# A page\n\nSee [what is not there](nowhere.md).\n")
    for _ in range(2):
        result = build(tiny_book)
        assert result.returncode != 0
        assert "nowhere.md" in result.stdout + result.stderr


def test_a_notebook_that_raises_fails_the_build_by_name(tiny_book: Path) -> None:
    write_notebook(tiny_book / "stage.ipynb", "assert 1 + 1 == 3, 'the claim no longer holds'")
    result = build(tiny_book)
    assert result.returncode != 0
    assert "stage" in result.stdout + result.stderr
    assert "the claim no longer holds" in result.stdout + result.stderr
