"""Clients program against the kinds of problems: docs/problems.md explains each, and none that does not exist."""

import ast
import re

from service.http.problems import KINDS, Problem
from service.jobs.states import FINAL, State
from tests.architecture.tree import ROOT, files

PAGE = (ROOT / "docs" / "problems.md").read_text()
LEAST_OF_THEM = 15
"""Were fewer found, this test would be looking in the wrong place."""

ENDED_WITHOUT_RESULT = FINAL - {State.SUCCEEDED}


def test_every_kind_of_problem_is_explained_with_its_status_and_no_other_is() -> None:
    in_code = _in_code()
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d{3}|other) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)

    assert len(in_code) >= LEAST_OF_THEM
    assert sorted(rows) == sorted(in_code)


def _in_code() -> set[tuple[str, str]]:
    """The kinds, each with its status, of every `Problem(status, kind, …)` in the service."""
    found = {(kind, str(status)) for status, kind in KINDS.items()}
    for path in files("*.py"):
        if path.is_relative_to(ROOT / "service"):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            for call in calls:
                if isinstance(call.func, ast.Name) and call.func.id == Problem.__name__:
                    found |= _kinds_of(call, str(path))
    return found


def _kinds_of(call: ast.Call, path: str) -> set[tuple[str, str]]:
    status, kind = call.args[:2]
    if isinstance(kind, ast.Constant) and isinstance(status, ast.Constant):
        return {(str(kind.value), str(status.value))}
    if isinstance(kind, ast.JoinedStr) and isinstance(status, ast.Constant):
        start = kind.values[0]
        assert isinstance(start, ast.Constant)
        assert start.value == "job-", f"{path}:{call.lineno}: which kinds does this make?"
        return {(f"job-{state}", str(status.value)) for state in ENDED_WITHOUT_RESULT}
    # `KINDS.get(status, "error")`: the table was counted already, what is left is its default.
    assert isinstance(kind, ast.Call), f"{path}:{call.lineno}: which kind is this?"
    default = kind.args[1]
    assert isinstance(default, ast.Constant)
    return {(str(default.value), "other")}
