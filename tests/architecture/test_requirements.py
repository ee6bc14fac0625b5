import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.architecture.tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]

RUNTIME = PROJECT["project"]["dependencies"]
BUILD = PROJECT["dependency-groups"]["build"]
EMBEDDED = [*RUNTIME, *BUILD, *EXTRAS["embedded"]]
DEV = [*EMBEDDED, *EXTRAS["dev"]]
BENCH = [*EMBEDDED, *EXTRAS["bench"]]


@pytest.mark.parametrize(
    ("lock", "declared"),
    [("runtime", RUNTIME), ("build", BUILD), ("embedded", EMBEDDED), ("dev", DEV), ("bench", BENCH)],
)
def test_the_lock_holds_what_the_project_declares(lock: str, declared: list[str]) -> None:
    pins = _pins_of(lock)

    unmet = [
        str(wanted)
        for wanted in map(Requirement, declared)
        if not any(wanted.specifier.contains(version) for version in pins.get(canonicalize_name(wanted.name), []))
    ]

    assert not unmet, "run: make lock"


def _pins_of(lock: str) -> dict[str, list[Version]]:
    pins: dict[str, list[Version]] = {}
    for name, version in re.findall(
        r"^([a-z0-9.-]+)==([^ ;\\]+)", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE
    ):
        pins.setdefault(canonicalize_name(name), []).append(Version(version))
    return pins
