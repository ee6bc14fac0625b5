"""Migrations and models say the same, and every migration can be taken back."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from flask_migrate import downgrade, upgrade
from sqlalchemy import inspect

from service.extensions import db


def test_models_equal_migrations(app: Flask) -> None:
    with app.app_context(), db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": db.metadata})

        assert compare_metadata(context, db.metadata) == []


def test_down_to_nothing_and_up_again(app: Flask) -> None:
    with app.app_context():
        downgrade(revision="base")
        assert inspect(db.engine).get_table_names() == ["alembic_version"]

        upgrade()

        assert "jobs" in inspect(db.engine).get_table_names()
