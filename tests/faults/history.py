"""The history: every request and its answer, every fault, one JSON object per line, in the order they were written."""

import threading
import time
from pathlib import Path
from typing import Any

import orjson


class History:
    """Written by many threads, to a file that outlives the process; read from memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("ab")
        self._entries: list[dict[str, Any]] = []

    def record(self, kind: str, **entry: Any) -> None:
        """Append an entry: `request`, `answer` or `fault`, with the wall clock's time in seconds."""
        whole = {"at": round(time.time(), 4), "kind": kind, **entry}
        with self._lock:
            self._entries.append(whole)
            self._file.write(orjson.dumps(whole, option=orjson.OPT_APPEND_NEWLINE))
            self._file.flush()

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The entries of one kind so far."""
        with self._lock:
            return [entry for entry in self._entries if entry["kind"] == kind]

    def close(self) -> None:
        """No more entries."""
        self._file.close()
