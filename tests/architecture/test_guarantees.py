"""The page of guarantees names tests that exist."""

import re

from tests.architecture.tree import ROOT

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_test_named_by_the_guarantees_exists() -> None:
    named = NAMED.findall((ROOT / "docs/guarantees.md").read_text())

    missing = [f"{path}::{name}" for path, name in named if f"def {name}(" not in _text(path)]

    assert len(named) > 15
    assert not missing


def _text(path: str) -> str:
    file = ROOT / path
    return file.read_text() if file.is_file() else ""
