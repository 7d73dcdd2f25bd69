"""Layout of the tests, architecture page, first words of docstrings."""

import ast
import re

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.tree import draw_tree, read_tree

pytestmark = pytest.mark.unit

TESTS, PACKAGE = ROOT / "tests", ROOT / "ophnet_ray"
# folders whose tests concern no single package
OTHER_FOLDERS = {"benchmarks", "cluster", "gpu", "reliability"}
# tests of several modules together
OTHER_FILES = {
    "test_imports.py": "what each entry point imports",
    "test_layout.py": "this rule",
    "cli/test_train_py.py": "train.py, as a user runs it",
    "data/cache/test_bucket_catalog.py": "the catalog of machines that share a bucket",
    "data/cache/test_survival.py": "several processes on one cache, some of them killed",
    "data/test_window_image.py": "pictures of windows, from a video through the cache to a batch",
    "models/test_foundation_encoders.py": "families of timm encoders, from network to prediction",
    "train/test_run_lock.py": "a run in a bucket under two machines: its folder, mirror and lock",
    "train/test_step_speed.py": "flags of the speed of a step, in runs of this process",
    "train/test_window_order.py": "samplers and loader in real Ray Train workers",
}


def test_the_tests_of_a_module_lie_where_the_module_lies():
    files = {path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    mirrored = {path for path in files if path.parts[0] not in OTHER_FOLDERS}
    strangers = {
        path.as_posix()
        for path in mirrored
        if not (PACKAGE / path).with_name(path.name.removeprefix("test_")).is_file()
    }
    print(f"{len(mirrored) - len(strangers)} of {len(files)} test files mirror a module")
    assert strangers == OTHER_FILES.keys()


def test_the_architecture_page_names_every_module_by_its_first_line():
    assert read_tree() == draw_tree(), "python -m tests.helpers.tree writes it"


def test_no_docstring_opens_with_a_question_word():
    """A noun phrase names a class or module; a verb opens a function's."""
    question = re.compile("(What|How|Which|Where|Whether|Those)\\b")
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = [
        (path, text)
        for folder in (PACKAGE, TESTS)
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, documented) and (text := ast.get_docstring(node))
    ]
    assert len(docstrings) > 1000
    assert [(path.name, text) for path, text in docstrings if question.match(text)] == []


def list_private_imports():
    """Yield each import of a private name of another library: file, module, names."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [alias.name for alias in node.names]
                parts = [*node.module.split("."), *names]
                is_foreign = parts[0] not in ("__future__", PACKAGE.name)
                if is_foreign and any(part.startswith("_") for part in parts):
                    yield path.relative_to(PACKAGE).as_posix(), node.module, names


def test_private_names_of_libraries_are_in_the_table_of_contributing():
    _, _, section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Private names")
    rows = {row.split("`")[1]: row for row in section.splitlines() if row.startswith("| `")}
    found = list(list_private_imports())
    assert found
    assert [
        (file, name) for file, _, names in found for name in names if name not in rows.get(file, "")
    ] == []
