"""The rules of the house: directions of imports, clean notebooks, nothing secret, dependencies explained and locked."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lifecycle"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted(PACKAGE.rglob("*.py"))

GROUND = ("settings", "errors", "files", "source", "contracts", "economics", "figures", "tables")
STAGES = (
    "world",
    "collection",
    "exploration",
    "preprocessing",
    "features",
    "training",
    "consortium",
    "tuning",
    "evaluation",
    "deployment",
    "monitoring",
)
TOP = ("pipeline", "aws", "datasets", "container", "readiness", "__main__")
FLOOR = {name: 0 for name in GROUND}
FLOOR |= {name: number for number, name in enumerate(STAGES, 1)} | {name: len(STAGES) + 1 for name in TOP}


def part(path: Path) -> str:
    """Return the part of the house a file belongs to: `features` for ``lifecycle/features/windows.py``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def parts_imported(source: str, package: tuple[str, ...] = ("lifecycle",)) -> set[str]:
    """Return the parts of the house that some code imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "lifecycle" else [base]
        found |= {name.split(".")[1] for name in names if name.startswith("lifecycle.")}
    return found


def text_of(notebook: Path, kind: str) -> list[str]:
    """Return the source of the cells of one kind."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def code_of(notebook: Path) -> str:
    """Return the code of a notebook as one module, without magic lines."""
    lines = "\n".join(text_of(notebook, "code")).splitlines()
    return "\n".join("" if line.startswith(("%", "!")) else line for line in lines)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    assert own in FLOOR, f"{own} has no place in the order of the house"
    package = ("lifecycle", *path.relative_to(PACKAGE).parts[:-1])
    for other in parts_imported(path.read_text(encoding="utf-8"), package) & set(FLOOR):
        if own in TOP and other in TOP:
            continue
        assert other == own or FLOOR[other] < FLOOR[own] or (FLOOR[own] == FLOOR[other] == 0)
        if own in STAGES and other == "world" != own:
            assert own == "collection", "only collection may know the simulated bank"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_settings_reads_the_environment(path: Path) -> None:
    if part(path) == "settings":
        return
    reads = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        one = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
        if one and ast.unparse(node.value) == "os.environ":
            reads.append(ast.unparse(node))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.getenv", "os.environ.get"):
            reads.append(ast.unparse(node))
    assert not reads


def test_the_answer_key_is_read_only_to_grade() -> None:
    readers = {part(path) for path in MODULES if names_answer_key(path.read_text(encoding="utf-8"))}
    assert readers <= {"world", "evaluation", "__main__"}
    graders = {path.name[:2] for path in NOTEBOOKS if names_answer_key(code_of(path))}
    assert graders <= {"04", "07", "09"}


def names_answer_key(source: str) -> bool:
    """Return whether code holds the name of the answer key or of its files in a string that is not a docstring."""
    tree = ast.parse(source)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False)
    }
    strings = [
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs
    ]
    return any(re.search(r"answer_key|truth\.parquet|incidents\.json", text) for text in strings)


def test_no_two_notebooks_hold_the_same_function() -> None:
    homes: dict[str, list[str]] = {}
    for path in NOTEBOOKS:
        for node in ast.walk(ast.parse(code_of(path))):
            if isinstance(node, ast.FunctionDef):
                homes.setdefault(ast.unparse(node), []).append(path.name)
    assert not {code: where for code, where in homes.items() if len(set(where)) > 1}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_clean(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(content)
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert not [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None]
    assert content["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_claims_something_and_keeps_to_the_pattern(path: Path) -> None:
    tree = ast.parse(code_of(path))
    claims = [n for n in ast.walk(tree) if isinstance(n, ast.Assert) and not isinstance(n.test, ast.Constant)]
    assert len(claims) >= 3, "result sentences are held by assertions"
    prose = "\n\n".join(text_of(path, "markdown"))
    stage = int(path.name[:2])
    assert prose.startswith("# ")
    assert f"../book/images/map_{stage:02d}.svg" in prose
    assert "In this notebook" in prose
    for section in ("## At work", "## On AWS", "## Check yourself", "## Take-away"):
        assert section in prose
    assert "**Predict.**" in prose
    assert not re.search(r"\$[^$\n]+\$", prose), "no formulas between dollars: a dollar is money here"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_cell_is_short_and_its_figures_have_alternative_text(path: Path) -> None:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 25, source
        if "plt.show()" in source:
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) >= 15, f"a figure without alternative text: {source[:80]}"


def tracked() -> list[Path]:
    """Return the files of the repository that git knows or would add; all files where there is no git."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode == 0:
        found = [ROOT / name for name in listing.stdout.splitlines()]
    else:
        outside = {".venv", ".venv-lock", "data", "_build", ".git"}
        found = [p for p in ROOT.rglob("*") if not outside & set(p.relative_to(ROOT).parts)]
    return [path for path in found if path.is_file()]


FORBIDDEN = {
    "an absolute path": r"(?<![\w.}/])/(?:home|root|Users|work|tmp/w)/\w",
    "an AWS key": r"AKIA[0-9A-Z]{16}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a token": r"\b(?:ghp|github_pat|xox[bp]|sk)[_-][A-Za-z0-9_]{20,}",
    "a note to self": r"\b(?:TODO|FIXME|XXX)\b",
}


def test_no_file_holds_a_secret_or_a_path_of_somebodys_machine() -> None:
    found = []
    for path in tracked():
        if path == Path(__file__).resolve() or path.suffix in (".png", ".ico"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {what}" for what, shape in FORBIDDEN.items() if re.search(shape, text)]
    assert not found


def test_nothing_that_a_run_makes_is_in_git() -> None:
    made = {"_build", ".venv", "mlruns", "__pycache__"}
    paths = [path.relative_to(ROOT) for path in tracked()]
    assert not [path for path in paths if made & set(path.parts) or path.parts[0] == "data"]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_dependency_says_what_it_is_for_and_has_a_lower_bound() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    groups = [project()["dependencies"], *project()["optional-dependencies"].values()]
    for requirement in (text for group in groups for text in group):
        line = next(line for line in lines if line.strip().startswith(f'"{requirement}"'))
        assert len(line.partition("#")[2].strip()) > 10, f"{requirement}: say in the same line what it does here"
        assert re.search(r">=|==", requirement), f"{requirement} has no lower bound"


def locked(name: str = "requirements.txt") -> dict[str, list[Requirement]]:
    """Return the pinned requirements of a lock by name; a name may have one line for each Python."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text and not text.startswith("-e"):
            requirement = Requirement(text)
            assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), f"{text} is not pinned"
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_the_lock_agrees_with_the_project_and_ends_with_the_package_itself() -> None:
    lock = locked()
    extras = project()["optional-dependencies"]
    for text in [*project()["dependencies"], *extras["book"], *extras["test"]]:
        wanted = Requirement(text)
        pins = lock.get(canonicalize_name(wanted.name), [])
        assert pins, f"{wanted.name} is not in requirements.txt: run `make lock`"
        for pin in pins:
            assert wanted.specifier.contains(next(iter(pin.specifier)).version, prereleases=True), (
                f"{pin}: run `make lock`"
            )
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n")
    assert [line for line in lines if line.strip()][-1] == "-e ."


def test_spark_has_a_lock_of_its_own_that_changes_nothing_of_the_other() -> None:
    lock, spark = locked(), locked("requirements-spark.txt")
    assert not set(lock) & set(spark), "installing Spark replaces a locked package"
    for text in project()["optional-dependencies"]["spark"]:
        wanted = Requirement(text)
        assert canonicalize_name(wanted.name) not in lock, "Spark is a third of the size of all others together"
        for pin in spark[canonicalize_name(wanted.name)]:
            assert wanted.specifier.contains(next(iter(pin.specifier)).version), f"{pin}: run `make lock`"


def test_the_lock_is_complete() -> None:
    """Everything that a locked package needs on this machine is locked too."""
    lock = locked()
    missing = set()
    for name, pins in lock.items():
        here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
        if not here:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            missing.add(f"{name} (locked, not installed)")
            continue
        for need in map(Requirement, needs):
            if (need.marker is None or need.marker.evaluate({"extra": ""})) and canonicalize_name(
                need.name
            ) not in lock:
                missing.add(f"{need.name} (for {name})")
    assert not missing


def test_the_lifecycle_maps_are_those_of_their_generator() -> None:
    images = ROOT / "book" / "images"
    draw = runpy.run_path(str(images / "make_maps.py"))["draw"]
    for number in range(10):
        assert (images / f"map_{number:02d}.svg").read_text(encoding="utf-8") == draw(number)


def test_what_python_compiles_is_kept_even_where_the_machine_forbids_it():
    show = '--eval=show:;@echo "[$$PYTHONDONTWRITEBYTECODE]"'
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["make", "-s", show, "show"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
