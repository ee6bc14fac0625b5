"""The data folder of a local stack (`var/`): what lies where, and the lock that keeps a second stack out."""

import fcntl
import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import orjson

from deploy.local.account import Account
from deploy.local.engine_record import write_private
from deploy.local.guarded import StartFailure
from deploy.local.program import program

DEFAULT_FOLDER = Path("var")

SERVERS_ELSEWHERE = Path("/var/lib/millrace")
"""Where root keeps the servers' data when their user cannot reach the data folder."""

STALE_LOCK_SECONDS = 8.0
"""How long the guards of a killed stack may take to stop the rest of it; they hold the lock until they are done."""


MOMENT_SECONDS = 0.3
"""How long `millrace status` may hold the lock while it looks."""


@dataclass(frozen=True)
class DataFolder:
    """Where one local stack keeps everything; two stacks with two folders know nothing of each other."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> Self:
        """The folder with its subfolders, made if need be. Raises StartFailure when it cannot be written."""
        folder = cls(path.absolute())
        try:
            # Others may pass through (the servers' user has to) but not look around.
            folder.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            for subfolder in (folder.logs, folder.reports, folder.cache):
                subfolder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartFailure(
                f"Cannot write the data folder {folder.path}: {error.strerror}. Choose another one with --dir."
            ) from error
        return folder

    @property
    def logs(self) -> Path:
        """The outputs of the processes, `<role>.log`."""
        return self.path / "logs"

    @property
    def reports(self) -> Path:
        """The reports of the main job, for a person to open."""
        return self.path / "reports"

    @property
    def cache(self) -> Path:
        """What libraries keep to be quicker next time."""
        return self.path / "cache"

    @property
    def artifacts(self) -> Path:
        """Artifact storage."""
        return self.path / "artifacts"

    @property
    def flower(self) -> Path:
        """What Flower remembers of tasks."""
        return self.path / "flower"

    @property
    def run(self) -> Path:
        """Signs of life of the running processes."""
        return self.path / "run"

    @property
    def engine_record(self) -> Path:
        """Which engines wrote the servers' data."""
        return self.path / "engine.json"

    @property
    def stack_file(self) -> Path:
        """The running stack, for scripts and tests; there while the stack is ready."""
        return self.path / "stack.json"

    def servers(self, account: Account | None) -> Path:
        """The folder above the servers' data: this one, or one that the servers' user reaches."""
        if account is None or account.can_enter(self.path):
            return self.path
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        elsewhere = SERVERS_ELSEWHERE / name
        elsewhere.mkdir(parents=True, exist_ok=True)
        link = self.path / "servers"
        if not link.is_symlink():
            link.symlink_to(elsewhere)
        return elsewhere

    def read_stack(self) -> dict[str, Any] | None:
        """What `stack.json` says, None if there is none. Raises StartFailure where it is not ours to read."""
        try:
            return cast("dict[str, Any]", orjson.loads(self.stack_file.read_bytes()))
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        except PermissionError:
            raise _somebody_elses(self.stack_file) from None

    def secret(self, name: str) -> str:
        """A random text of 43 characters or more, made at the first call and kept (0600). It never parses as JSON."""
        kept = self._read_secrets()
        if name not in kept:
            # A prefix of letters: Flask reads settings as JSON, and digits alone would arrive as a number.
            self.keep_secret(name, f"mr_{secrets.token_urlsafe(32)}")
            kept = self._read_secrets()
        return kept[name]

    def kept_secret(self, name: str) -> str | None:
        """A secret that was kept earlier."""
        return self._read_secrets().get(name)

    def keep_secret(self, name: str, value: str) -> None:
        """Keep a secret (0600), replacing an earlier one of the name."""
        kept = {**self._read_secrets(), name: value}
        write_private(self._secrets_file, orjson.dumps(kept, option=orjson.OPT_INDENT_2).decode())

    @property
    def _secrets_file(self) -> Path:
        return self.path / "secrets.json"

    def _read_secrets(self) -> dict[str, str]:
        try:
            kept = orjson.loads(self._secrets_file.read_bytes())
        except FileNotFoundError:
            return {}
        except PermissionError:
            raise _somebody_elses(self._secrets_file) from None
        except orjson.JSONDecodeError:
            kept = None
        if not isinstance(kept, dict) or not all(isinstance(value, str) for value in kept.values()):
            raise StartFailure(
                f"{self._secrets_file} is damaged. Restore it, or remove it: the next start makes new secrets, and a "
                f"new API key for the same jobs. Keys that were made before stay good."
            )
        return cast("dict[str, str]", kept)


class FolderLock:
    """Held while a stack runs on the folder. The guards hold it too: until the last process is gone, nobody gets in.

    A second lock is the supervisor's alone. While it is held, the process id in it is that of the supervisor: one that
    is read from a file alone may long since be another program's.
    """

    def __init__(self, descriptor: int, own_descriptor: int) -> None:
        self.descriptor = descriptor
        self._own_descriptor = own_descriptor

    @classmethod
    def take(cls, folder: DataFolder) -> Self:
        """Lock the folder for this process.

        Waits a moment for the rest of a killed stack. Raises StartFailure when a stack runs there.
        """
        descriptor = _open(folder.path / "lock")
        began = time.monotonic()
        while not _lock(descriptor):
            holder = _supervisor(folder)
            if time.monotonic() > began + (MOMENT_SECONDS if holder else STALE_LOCK_SECONDS):
                os.close(descriptor)
                raise StartFailure(
                    f"A stack runs on {folder.path} already (process {holder or 'unknown'}). "
                    f"Stop it with `{program()} down --dir {folder.path}`, or start another one with --dir elsewhere."
                )
            time.sleep(0.1)
        own_descriptor = _open(folder.path / "supervisor.lock")
        os.ftruncate(own_descriptor, 0)
        fcntl.flock(own_descriptor, fcntl.LOCK_EX)  # at most somebody who looks holds it, and not for long
        os.pwrite(own_descriptor, str(os.getpid()).encode(), 0)
        return cls(descriptor, own_descriptor)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._own_descriptor)
        os.close(self.descriptor)


def stack_process(folder: DataFolder) -> int | None:
    """The id of the process that runs a stack on the folder; 0 while the rest of a killed one ends; None if none.

    Raises StartFailure where another user's stack may run there.
    """
    try:
        descriptor = os.open(folder.path / "lock", os.O_RDWR)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise _somebody_elses(folder.path / "lock") from None
    try:
        return None if _lock(descriptor) else _supervisor(folder)
    finally:
        os.close(descriptor)


def _supervisor(folder: DataFolder) -> int:
    """The living supervisor of the folder's stack; 0 if there is none, and only its guards are left."""
    try:
        descriptor = os.open(folder.path / "supervisor.lock", os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        return 0 if _lock(descriptor) else int(os.pread(descriptor, 20, 0) or 0)
    finally:
        os.close(descriptor)


def _open(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:
        raise _somebody_elses(lock) from None


def _somebody_elses(file: Path) -> StartFailure:
    try:
        owner = file.owner()
    except (OSError, KeyError):
        owner = "another user"
    return StartFailure(
        f"{file} may be read by {owner} only. Run this as {owner}, or choose another folder with --dir."
    )


def process_exists(pid: int) -> bool:
    """Whether a process has that id and has not ended (one that only waits to be collected has)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except ProcessLookupError:  # ended between opening the file and reading it
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
