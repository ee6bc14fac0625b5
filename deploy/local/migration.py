"""Bring the database to the schema of this code, unless it has it already."""

from collections.abc import Callable
from pathlib import Path

import psycopg
from alembic.script import ScriptDirectory

from deploy.commands import MIGRATE
from deploy.local.guarded import GuardedProcess, StartFailure
from deploy.local.logs import tail

MIGRATE_SECONDS = 600


def schema_is_current(database_url: str, scripts: Path) -> bool:
    """Whether the database stands at the newest migration in `scripts`.

    Asking costs a tenth of a second, the migration command over one: later starts skip it. Raises StartFailure when
    the database stands at a migration that this code does not have: a newer Millrace was here.
    """
    directory = ScriptDirectory(str(scripts))
    try:
        opened = psycopg.connect(database_url.replace("postgresql+psycopg://", "postgresql://", 1), connect_timeout=5)
    except psycopg.OperationalError as error:
        raise StartFailure(f"The database does not answer: {str(error).splitlines()[0]}. Check its URL.") from error
    with opened as connection:
        if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
            return False
        stands_at = {str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")}
    known = {script.revision for script in directory.walk_revisions()}
    if stands_at - known:
        raise StartFailure(
            f"The database stands at the migration {', '.join(sorted(stands_at - known))}, which this version of "
            f"Millrace does not have: a newer one wrote it. Update Millrace, or start on another folder with --dir."
        )
    return stands_at == set(directory.get_heads())


def run_migration(start: Callable[[tuple[str, ...], Path], GuardedProcess], log: Path) -> None:
    """Run the migration command and wait for its end. Raises StartFailure with the end of its log."""
    status = start(MIGRATE, log).wait(MIGRATE_SECONDS)
    if status != 0:
        raise StartFailure(f"The migration failed (exit code {status}); the end of {log}:\n{tail(log)}")
