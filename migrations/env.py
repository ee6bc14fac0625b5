"""Alembic's environment: one connection of the service, with timeouts that keep a migration from blocking it.

Run through Flask-Migrate: `flask --app service.app db upgrade`.
"""

from alembic import context
from flask import current_app
from sqlalchemy import create_engine, pool, text

from service.extensions import db

LOCK_TIMEOUT = "5s"
"""A migration that cannot get its lock gives up instead of making every request queue up behind it."""
STATEMENT_TIMEOUT = "15min"
MIGRATION_LOCK = 0x6D696C6C  # "mill": two migrations at once wait for each other; held by the transaction only


def include_object(_object: object, name: str | None, kind: str, _reflected: bool, _compared: object) -> bool:  # noqa: FBT001
    """Compare everything but Alembic's own table."""
    return not (kind == "table" and name == "alembic_version")


def run_migrations() -> None:
    """Run them in one transaction."""
    engine = create_engine(current_app.config["SQLALCHEMY_DATABASE_URI"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            include_object=include_object,
            compare_type=True,
            compare_server_default=False,
        )
        with context.begin_transaction():
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            context.run_migrations()
    engine.dispose()


run_migrations()
