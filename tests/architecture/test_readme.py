import re
from pathlib import Path

import click
import pytest

from service.cli import cli
from tests.architecture.tree import ROOT, files, name_of

PAGES = [path for path in files("*.md") if path.parent == ROOT or path.is_relative_to(ROOT / "docs")]
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")

pytestmark = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {name for code in _code_of(page) for name in re.findall(r"\bmake ([a-z][a-z-]*)", code)} <= targets


def test_every_millrace_command_that_a_page_names_exists(page: Path) -> None:
    named = {words for code in _code_of(page) for words in re.findall(r"\bmillrace((?: [a-z][a-z-]*)+)", code)}

    assert not [words for words in named if not _is_command(words.split())]


def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    assert not [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]


def _code_of(page: Path) -> list[str]:
    return CODE.findall(page.read_text())


def _is_command(words: list[str]) -> bool:
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            return True  # what follows a command are its arguments
        if word not in command.commands:
            return False
        command = command.commands[word]
    return True
