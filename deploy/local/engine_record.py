"""Which engine and major version wrote the data in a folder: `engine.json`. No engine opens another one's data."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from deploy.local.binaries import ServerBinary
from deploy.local.guarded import StartFailure


@dataclass(frozen=True)
class EngineRecord:
    """The record of one data folder. Shape: `{"postgres": {"engine": "postgresql", "major": 18}, "redis": {…}}`."""

    path: Path

    def read(self, server: str) -> tuple[str, int] | None:
        """Engine and major version of that server's data, None if there are none. Raises StartFailure if garbled."""
        try:
            entry = json.loads(self.path.read_text()).get(server)
            return None if entry is None else (str(entry["engine"]), int(entry["major"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StartFailure(
                f"{self.path} does not say which engine wrote the data beside it ({error!r}). "
                f"Restore the file, or start on another folder with --dir."
            ) from error

    def write(self, server: str, binary: ServerBinary) -> None:
        """Note the engine for that server, keeping the others' entries; atomic."""
        entries = json.loads(self.path.read_text()) if self.path.exists() else {}
        entries[server] = {"engine": binary.engine, "major": binary.major}
        write_private(self.path, json.dumps(entries, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 whole or not at all: readers see the old text or the new one."""
    working = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(working, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    working.replace(path)
