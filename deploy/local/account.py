"""Which user the servers run as: PostgreSQL refuses to run as root, and the others have no need to."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FALLBACK_NAME = "nobody"


@dataclass(frozen=True)
class Account:
    """A user of this machine without privileges."""

    name: str
    uid: int
    gid: int

    @classmethod
    def for_servers(cls) -> Self | None:
        """The user to drop to: None (stay who we are) unless we are root; else who called sudo, or `nobody`."""
        if os.geteuid() != 0:
            return None
        invoked_by = int(os.environ.get("SUDO_UID") or 0)
        try:
            entry = pwd.getpwuid(invoked_by) if invoked_by else pwd.getpwnam(FALLBACK_NAME)
        except KeyError:
            # A user id that came from outside this machine's list, or an image without `nobody`: the customary number.
            return cls(FALLBACK_NAME, 65534, 65534)
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    def can_enter(self, folder: Path) -> bool:
        """Whether this user reaches the folder, asked of the kernel: a parent folder may be closed to it."""
        return self.succeeds(["/bin/sh", "-c", 'cd -- "$0"', str(folder)])

    def succeeds(self, command: list[str]) -> bool:
        """Whether the command, run as this user, ends with status 0."""
        try:
            done = subprocess.run(  # noqa: S603  # commands of this package, no shell input
                command,
                user=self.uid,
                group=self.gid,
                extra_groups=[],
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except OSError:
            return False
        return done.returncode == 0


def give_to(account: Account | None, path: Path, *, mode: int) -> None:
    """Hand one file or folder to the account (a no-op when None) and set its mode; nothing above it is touched."""
    path.chmod(mode)
    if account is not None:
        os.chown(path, account.uid, account.gid)
