"""What code a result depends on: a hash over the modules that a stage uses, and over the versions of its libraries."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import lifecycle
from lifecycle.errors import LifecycleError

# What a stage's code is: its module and, step by step, every module of this package that it imports.
# The ground floor is left out where its content reaches the key by another way (settings, by value)
# or cannot change a result (errors, files, the pipeline, this module).
_NOT_CODE = {
    "lifecycle",
    "lifecycle.settings",
    "lifecycle.errors",
    "lifecycle.files",
    "lifecycle.pipeline",
    "lifecycle.source",
}


def code_hash(module: str) -> str:
    """Return a hash over the code that a module uses: its own, what it imports here, and library versions.

    Comments, docstrings and layout do not count, since they cannot change a result. Files in the packages
    of that code that are no modules, such as settings in YAML, count byte for byte.
    """
    own, libraries = _closure(module)
    parts = {name: _source(_source_path(name)).digest for name in sorted(own)}
    parts |= {name: _version(name) for name in sorted(libraries)}
    parts |= _data_hashes(own)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _closure(module: str) -> tuple[set[str], set[str]]:
    own: set[str] = set()
    libraries: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if not name or name in own or name in _NOT_CODE:
            continue
        own.add(name)
        todo.append(name.rpartition(".")[0])  # importing a module runs its package first
        for imported in _imports(name):
            if imported.split(".")[0] == "lifecycle":
                todo.append(imported)
            else:
                libraries.add(imported.split(".")[0])
    return own, libraries - set(sys.stdlib_module_names)


def _data_hashes(modules: set[str]) -> dict[str, str]:
    """Return a hash of each file of the packages among some modules that is not a module."""
    hashes = {}
    for module in sorted(modules):
        path = _source_path(module)
        for file in sorted(path.parent.rglob("[!.]*")) if path.name == "__init__.py" else ():
            if file.is_file() and file.suffix != ".py" and file.parent.name != "__pycache__":
                hashes[f"{module}/{file.relative_to(path.parent)}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashes


def _source_path(module: str) -> Path:
    path = _find(module)
    if path is None:
        raise LifecycleError(f"The module {module} cannot be found; reinstall the package.")
    return path


def _find(module: str) -> Path | None:
    """Return the file of a module of this package, without importing the packages above it."""
    places: Any = lifecycle.__path__
    spec = None
    names = module.split(".")
    for depth in range(2, len(names) + 1):
        spec = PathFinder.find_spec(".".join(names[:depth]), places) if places else None
        if spec is None:
            return None
        places = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.origin else None


def _imports(module: str) -> set[str]:
    """Return the full names of the modules that a module imports, inside functions too."""
    path = _source_path(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for level, base, names in _source(path).imports:
        if level:
            parent = package.split(".")[: len(package.split(".")) - level + 1]
            base = ".".join([*parent, *([base] if base else [])])
        found.add(base)
        if base.split(".")[0] == "lifecycle":
            found.update(f"{base}.{name}" for name in names if _find(f"{base}.{name}"))
    return {name for name in found if name and name != "__future__"}


@dataclass(frozen=True)
class _Source:
    digest: str
    imports: frozenset[tuple[int, str, tuple[str, ...]]]  # level, module, names


def _source(path: Path) -> _Source:
    """Read a module once for each state of its file: a key looks at every module of many stages."""
    state = path.stat()
    return _parsed(path, state.st_mtime_ns, state.st_size)


@cache
def _parsed(path: Path, _modified: int, _size: int) -> _Source:
    tree = ast.parse(path.read_text())
    imports = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports.add((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return _Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(imports))


@cache
def _version(library: str) -> str:
    names = _distributions().get(library, [library])
    try:
        return importlib.metadata.version(names[0])
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
