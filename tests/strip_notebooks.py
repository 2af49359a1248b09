"""Strip the outputs of the notebooks given, in place; say which were changed, and fail if any was (pre-commit)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat


def strip(path: Path) -> bool:
    """Remove outputs and counts from a notebook, check it against the schema, and return whether it changed."""
    before = path.read_text(encoding="utf-8")
    content = json.loads(before)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    content["metadata"] = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(content)
    after = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


if __name__ == "__main__":
    changed = [name for name in sys.argv[1:] if strip(Path(name))]
    for name in changed:
        print(f"stripped {name}")
    sys.exit(1 if changed else 0)
