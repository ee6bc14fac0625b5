"""The processes' logs: written by them, and read for what people are told when one of them fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.account import Account, give_to

LINES_SHOWN = 8
TAIL_BYTES = 16_384


@contextmanager
def appending(log: Path, account: Account | None) -> Iterator[tuple[int, Callable[[], str]]]:
    """The log opened for appending (a descriptor), and a function that reads what has been added since."""
    new = not log.exists()
    with log.open("ab") as file:
        if new:
            give_to(account, log, mode=0o600)
        position = file.tell()
        yield file.fileno(), lambda: _read_from(log, position)


def tail(log: Path) -> str:
    """The last lines of a log file, indented, for a message to people."""
    return last_lines(_read_from(log, max(0, log.stat().st_size - TAIL_BYTES)))


def last_lines(text: str) -> str:
    """The last lines of a text, indented, for a message to people."""
    return "\n".join(f"    {line}" for line in text.splitlines()[-LINES_SHOWN:])


def _read_from(log: Path, position: int) -> str:
    with log.open("rb") as file:
        file.seek(position)
        return file.read().decode(errors="replace")
