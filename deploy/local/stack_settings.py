"""Which settings a command such as `key create` works with: the environment's, or those of a stack that runs here."""

import os
import shlex
from pathlib import Path
from typing import Any

from deploy.local.folder import DEFAULT_FOLDER, DataFolder, stack_process
from deploy.local.guarded import StartFailure
from deploy.local.program import program
from service.config import ENV_PREFIX, REQUIRED, missing_in_environment, values_of


class NoSettings(Exception):
    """It is not clear which installation is meant; the message is for people and says what to do."""


def settings_for_commands(asked: Path | None) -> dict[str, Any]:
    """What to put over the environment's settings; nothing, where the environment has all that is needed.

    `asked` is a data folder that the user named: its stack is meant then, whatever the environment says. Raises
    NoSettings.
    """
    missing = missing_in_environment()
    if asked is None and not missing:
        return {}
    folder = asked or DEFAULT_FOLDER
    settings = _settings_of_stack(folder)
    if settings is None and asked is not None:
        raise NoSettings(f"No stack runs on {folder}. Start it: {_up(folder)}")
    if settings is None:
        raise NoSettings(
            f"Not set: {', '.join(missing)}. And no stack runs on {folder}, whose settings could be taken instead. "
            f"Start one ({_up(folder)}), name the folder of a running one (--dir FOLDER), or set all of these."
        )
    if asked is None and (others := _at_odds(settings)):
        # Half of one installation and half of another would be worse than none.
        raise NoSettings(
            f"{' and '.join(others)} in your environment is not that of the stack on {folder}. To mean that stack, "
            f"unset it or say --dir {shlex.quote(str(folder))}; to mean another one, set {', '.join(missing)} as well."
        )
    return values_of(settings)


def _settings_of_stack(folder: Path) -> dict[str, str] | None:
    """The environment of the stack that runs on the folder, None if there is none."""
    data_folder = DataFolder(folder.absolute())
    try:
        if stack_process(data_folder) is None:
            return None
        described = data_folder.read_stack()
    except StartFailure as failure:
        raise NoSettings(str(failure)) from None
    if described is None or not described.get("settings"):
        raise NoSettings(f"The stack on {folder} is starting or stopping. Try again in a moment.")
    settings: dict[str, str] = described["settings"]
    return settings


def _at_odds(settings: dict[str, str]) -> list[str]:
    """Which of the needed settings the environment has otherwise than the stack."""
    variables = [f"{ENV_PREFIX}_{name}{ending}" for name in REQUIRED for ending in ("", "_FILE")]
    return [name for name in variables if os.environ.get(name) and os.environ[name] != settings.get(name)]


def _up(folder: Path) -> str:
    where = "" if folder == DEFAULT_FOLDER else f" --dir {shlex.quote(str(folder))}"
    return f"{program()} up{where}"
