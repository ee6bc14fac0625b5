"""Vacuum and analyze the tables that every job writes to early and in small portions."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# By default a table is vacuumed once a fifth of it is dead: of a million jobs, 200,000 rows and as many entries in each
# index of waiting jobs, which dispatcher and clock walk over until then. A claim and a finish each leave a dead row.
# Not before 2,000 rows: of a table that it knows to be tiny the planner takes any index, or none, and prepared
# statements and foreign keys keep to that choice when the table has long grown.
HOT = ("jobs", "job_attempts", "job_events")
SETTINGS = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "2000",
    "autovacuum_vacuum_insert_threshold": "2000",
    "autovacuum_vacuum_insert_scale_factor": "0.1",
    "autovacuum_analyze_threshold": "2000",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_limit": "2000",
}


def upgrade() -> None:
    """Upgrade; compatible with the previous release."""
    chosen = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    for table in HOT:
        op.execute(f"ALTER TABLE {table} SET ({chosen})")


def downgrade() -> None:
    """Back to the server's own settings."""
    for table in HOT:
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(SETTINGS)})")
