import ast
import importlib
from pathlib import Path

import pytest

from service.jobs.types import JobType, registry
from tests.architecture.tree import ROOT, module_name, name_of

TASKS = sorted(path for path in (ROOT / "worker" / "tasks").glob("*.py") if path.name != "__init__.py")

pytestmark = pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)


def test_a_task_module_registers_exactly_one_job_type(path: Path) -> None:
    assert len(_job_types_of(path)) == 1


def test_a_job_type_is_described_and_its_example_loads(path: Path) -> None:
    (job_type,) = _job_types_of(path)

    assert job_type.description
    assert job_type.args().validate(dict(job_type.example)) == {}


def test_a_job_type_is_tested_by_calling_its_handler_twice(path: Path) -> None:
    (job_type,) = _job_types_of(path)

    tests = [ROOT / "tests" / kind / f"test_{path.stem}.py" for kind in ("unit", "integration")]
    trees = [ast.parse(test.read_text()) for test in tests if test.exists()]

    assert trees, f"there is no {' nor '.join(map(name_of, tests))}"
    assert any(_mentions(tree, job_type.handler.__name__) for tree in trees), "its test never names the handler"
    assert any(
        node.name.startswith("test_") and "twice" in node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    ), "no test of it calls the handler twice"


def _job_types_of(path: Path) -> list[JobType]:
    name = module_name(path)
    importlib.import_module(name)
    return [job_type for job_type in registry if job_type.handler.__module__ == name]


def _mentions(tree: ast.Module, name: str) -> bool:
    return any(
        (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)
        for node in ast.walk(tree)
    )
