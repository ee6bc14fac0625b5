"""Failpoints: places where a test makes the process die, sleep or stumble. Off unless the setting FAILPOINTS names one.

They stand before and after every commit and every publish, because that is where a crash tells promises from hopes.
`submit.after_commit=exit,p=0.05; ring.after=sleep:2; succeed.before_commit=exit,token=/tmp/once` reads: one submission
in twenty kills its process once it is durable; each ring takes two seconds more; the first process that is about to
commit a result dies, and takes the file with it, so that no other one does.
"""

import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from sqlalchemy.exc import OperationalError

Action = Literal["exit", "sleep", "raise"]
ACTIONS = ("exit", "sleep", "raise")
EXIT_STATUS = 70
_RULE = re.compile(r"(?P<point>\w+\.\w+)=(?P<action>[a-z]+)(?::(?P<seconds>[\d.]+))?(?P<conditions>(?:,\w+=[^,;]+)*)")


class BadFailpoint(ValueError):
    """The setting does not read as a list of failpoints."""


@dataclass
class Failpoint:
    """What happens at one place. `probability` 0 to 1; `times` bounds it per process, `token` over all processes."""

    action: Action
    seconds: float = 0.0
    probability: float = 1.0
    times: int | None = None
    token: Path | None = None
    """A file that must be there; whoever removes it is the one for whom the point fires."""

    def reached(self, name: str, error: Callable[[str], Exception]) -> None:
        """Do it, if the conditions hold."""
        if self.times == 0 or random.random() >= self.probability or not self._take_token():  # noqa: S311 - no secret
            return
        if self.times is not None:
            self.times -= 1
        if self.action == "exit":
            os._exit(EXIT_STATUS)
        if self.action == "sleep":
            time.sleep(self.seconds)
        else:
            raise error(f"failpoint {name}")

    def _take_token(self) -> bool:
        if self.token is None:
            return True
        try:
            self.token.unlink()
        except FileNotFoundError:
            return False
        return True


def _connection_lost(message: str) -> Exception:
    return OperationalError(message, None, ConnectionResetError(message))


_armed: dict[str, Failpoint] = {}


def failpoint(place: str, moment: str, *, error: Callable[[str], Exception] = _connection_lost) -> None:
    """A place where a test may interfere; otherwise a look at an empty dictionary. `error` makes what is raised."""
    if _armed and (point := _armed.get(f"{place}.{moment}")) is not None:
        point.reached(f"{place}.{moment}", error)


def arm(setting: str) -> None:
    """Replace this process' failpoints by those of the setting; an empty one disarms all. Raises BadFailpoint."""
    points = parse(setting)
    _armed.clear()
    _armed.update(points)


def parse(setting: str) -> dict[str, Failpoint]:
    """The failpoints by name. Raises BadFailpoint."""
    points = {}
    for rule in filter(None, map(str.strip, setting.split(";"))):
        match = _RULE.fullmatch(rule)
        if match is None or match["action"] not in ACTIONS:
            raise BadFailpoint(
                f"{rule!r} does not read as place.moment=exit|sleep:seconds|raise[,p=][,times=][,token=]"
            )
        conditions = dict(pair.split("=", 1) for pair in match["conditions"].split(",")[1:])
        if unknown := conditions.keys() - {"p", "times", "token"}:
            raise BadFailpoint(f"{rule!r} has an unknown condition: {', '.join(sorted(unknown))}")
        try:
            points[match["point"]] = Failpoint(
                cast("Action", match["action"]),
                seconds=float(match["seconds"] or 0),
                probability=float(conditions.get("p", 1)),
                times=int(conditions["times"]) if "times" in conditions else None,
                token=Path(conditions["token"]) if "token" in conditions else None,
            )
        except ValueError:
            raise BadFailpoint(f"{rule!r} has a condition that is no number") from None
    return points
