"""The tree of ``ophnet_ray/README.md``: every module with the first line of its docstring.

``python -m tests.helpers.tree`` writes it anew; ``tests/test_layout.py`` compares it.
"""

import ast
from pathlib import Path

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "ophnet_ray"
README = PACKAGE / "README.md"
PACKAGES = (
    "storage",
    "data",
    "data/video",
    "data/cache",
    "data/features",
    "metrics",
    "models",
    "reports",
    "inference",
    "inspection",
    "distributed",
    "train",
    "tune",
    "cli",
)
"""In the order of import: each uses those before it."""
BEGIN, END = "<!-- tree: begin -->\n", "<!-- tree: end -->"


def draw_tree() -> str:
    """Return one table per package, one row per module."""
    parts = [_draw_table("At the root", _modules_in(PACKAGE))]
    for name in PACKAGES:
        folder = PACKAGE / name
        parts.append(_draw_table(f"`{name}/`: {_first_line(folder)}", _modules_in(folder)))
    return "\n".join(parts)


def read_tree() -> str:
    """Return the tree as the README has it."""
    return README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def write_tree() -> None:
    """Replace the tree of the README."""
    head, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    README.write_text(f"{head}{BEGIN}{draw_tree()}{END}{rest.partition(END)[2]}", encoding="utf-8")


def _modules_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def _draw_table(title: str, modules: list[Path]) -> str:
    rows = [f"| `{path.name}` | {_first_line(path)} |" for path in modules]
    return "\n".join([f"**{title}**", "", "| file | content |", "|---|---|", *rows, ""])


def _first_line(path: Path) -> str:
    source = path / "__init__.py" if path.is_dir() else path
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("``", "`")


if __name__ == "__main__":
    write_tree()
