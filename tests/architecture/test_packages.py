import ast
import re
from pathlib import Path

import pytest

from tests.architecture.tree import PACKAGES, ROOT, files, name_of

OURS = (*PACKAGES, "migrations", "tests")
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "manager", "managers", "misc", "common"}
MOST_LINES = 450

MODULES = [path for path in files("*.py") if path.relative_to(ROOT).parts[0] in OURS]
PACKAGE_FILES = [path for path in MODULES if path.name == "__init__.py"]


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name_of)
def test_a_package_file_holds_a_docstring_and_nothing_else(path: Path) -> None:
    tree = ast.parse(path.read_text())

    assert ast.get_docstring(tree), "says nothing about its package"
    assert len(tree.body) == 1, "holds more than a docstring"


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in MODULES if path.relative_to(ROOT).parts[0] != "migrations"}

    assert folders == {path.parent for path in PACKAGE_FILES}


def test_no_module_has_a_name_that_says_nothing() -> None:
    named = [name_of(path) for path in MODULES if SAYS_NOTHING & set(re.split(r"[_/.]", name_of(path)))]

    assert not named


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {
        name_of(path): len(path.read_text().splitlines())
        for path in MODULES
        if path.relative_to(ROOT).parts[0] != "migrations"
    }

    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}, "which two things is it?"
