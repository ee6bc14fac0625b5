"""Where artifacts' bytes are kept: a folder that API and workers share."""

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.ids import uuid7

log = logging.getLogger(__name__)

SYNC_EVERY_BYTES = 16 << 20
_OURS = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}(\.partial)?")


class FileTooLarge(Exception):
    """The stream went past the limit; nothing was kept."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The file is larger than {limit:,} bytes.")
        self.limit = limit


@dataclass(frozen=True)
class StoredFile:
    """A file in storage: its key there, its size in bytes and its SHA-256 in hex."""

    key: str
    size: int
    sha256: str


class ArtifactStorage:
    """Files under one folder, named by random keys; a name is never used twice, so a write never replaces."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, chunks: Iterable[bytes], *, limit: int | None = None) -> StoredFile:
        """Store the bytes durably. Raises FileTooLarge past `limit` bytes, and then keeps nothing.

        The file appears under its key only when it is whole and on disk: it is written beside, synced, then renamed.
        """
        name = uuid7().hex
        key = f"{name[-2:]}/{name}"
        final = self.root / key
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_suffix(".partial")
        digest, size, unsynced = hashlib.sha256(), 0, 0
        try:
            with partial.open("xb") as out:
                for chunk in chunks:
                    size += len(chunk)
                    if limit is not None and size > limit:
                        raise FileTooLarge(limit)
                    digest.update(chunk)
                    out.write(chunk)
                    unsynced += len(chunk)
                    if unsynced >= SYNC_EVERY_BYTES:  # many short waits instead of one long one at the end
                        os.fdatasync(out.fileno())
                        unsynced = 0
                out.flush()
                os.fsync(out.fileno())
            partial.rename(final)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(final.parent)
        return StoredFile(key=key, size=size, sha256=digest.hexdigest())

    def path(self, key: str) -> Path:
        """Where the file lies on this machine."""
        return self.root / key

    def older_than(self, seconds: float) -> Iterator[str]:
        """The keys of files that were written longer ago than that; unfinished ones included, and none but ours."""
        limit = time.time() - seconds
        for path in self.root.glob("??/*"):
            key = f"{path.parent.name}/{path.name}"
            with suppress(OSError):  # deleted while we look, or not ours to look at
                if _OURS.fullmatch(key) and path.stat().st_mtime < limit:
                    yield key

    def delete(self, key: str) -> None:
        """Remove the file; one that is already gone is fine."""
        self.path(key).unlink(missing_ok=True)

    def delete_all(self, keys: Iterable[str]) -> None:
        """Remove those of the files that can be; what stays is told in the log, and has no row any more."""
        for key in keys:
            try:
                self.delete(key)
            except OSError as error:
                log.warning("could not delete the file %s: %s", key, error)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: the entry lives in the folder, not in the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
