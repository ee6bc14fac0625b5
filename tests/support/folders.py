"""Folders that a server running as somebody else may use."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder for a server's data: not below pytest's own, which nobody but root may enter."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-test-"))
    folder.chmod(0o755)
    try:
        yield folder / "data"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
