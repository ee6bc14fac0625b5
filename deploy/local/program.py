"""How this `millrace` is called, for messages that tell a command to type."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """`millrace` where the shell finds this very one by that name, else its path: `.venv/bin/millrace`."""
    script = Path(sys.executable).with_name("millrace")
    found = shutil.which("millrace")
    if not script.exists() or (found is not None and Path(found).samefile(script)):
        return "millrace"
    here = Path.cwd()
    return shlex.quote(os.fspath(script.relative_to(here) if script.is_relative_to(here) else script))
