from alembic.script import ScriptDirectory

from tests.architecture.tree import ROOT


def test_the_migrations_have_a_single_head() -> None:
    migrations = ScriptDirectory(str(ROOT / "migrations"))

    assert len(migrations.get_heads()) == 1
