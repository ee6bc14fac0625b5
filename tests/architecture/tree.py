"""The checkout as the guards see it. Read from the disk and not from git, which a container or an archive lacks."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "worker", "beat", "deploy")

_NOT_OURS = {".git", ".venv", "var", "build", "dist", "instance", "node_modules", "__pycache__"}
_CACHES = (".egg-info", "_cache", ".hypothesis")


def files(pattern: str = "*") -> Iterator[Path]:
    """Our own files whose name matches the pattern, without what tools and runs left behind."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name not in _NOT_OURS and not name.endswith(_CACHES))
        yield from (path for name in sorted(names) if (path := Path(folder, name)).match(pattern))


def module_name(path: Path) -> str:
    """`service/jobs/submit.py` is `service.jobs.submit`; a package's `__init__.py` is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def name_of(path: Path) -> str:
    """The path as a reader of a failed test wants it."""
    return str(path.relative_to(ROOT))
